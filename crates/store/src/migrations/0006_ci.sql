-- The pipeline run that a deploy came from, as whoever deployed told it.
ALTER TABLE deploy ADD COLUMN ci TEXT;
