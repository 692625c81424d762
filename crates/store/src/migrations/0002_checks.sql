-- What was checked before a deploy, as JSON.
ALTER TABLE deploy ADD COLUMN checks TEXT;
