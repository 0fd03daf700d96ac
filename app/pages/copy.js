"use strict";
// The code must not stay in the address bar and the history.
history.replaceState(null, "", location.pathname);
const button = document.getElementById("copy");
const command = document.getElementById("command");
function select() {
  const range = document.createRange();
  range.selectNodeContents(command);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}
button.hidden = false;
button.addEventListener("click", async () => {
  let copied = false;
  try {
    await navigator.clipboard.writeText(command.textContent);
    copied = true;
  } catch {
    // Without https there is no clipboard to write to: the old way, then by hand.
    select();
    copied = document.execCommand("copy");
  }
  button.textContent = copied ? "Copied" : "Press Ctrl-C to copy";
});
