-- What the store was seen to hold of an organization, less what its pushes say they have uploaded
-- (databases.stored_bytes and staged_segments): what history was thinned of, what compaction and
-- collection freed, and what waits to be collected.
ALTER TABLE gc_looks ADD COLUMN correction_bytes BIGINT NOT NULL DEFAULT 0;
