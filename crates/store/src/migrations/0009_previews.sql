-- A Preview is a Deployment that is made from another one, for a pull request.
ALTER TABLE deployment ADD COLUMN preview_of TEXT REFERENCES deployment (id) ON DELETE CASCADE;
-- Which pull request, and who runs it.
ALTER TABLE deployment ADD COLUMN preview TEXT;
ALTER TABLE deployment ADD COLUMN preview_expires_at BIGINT;

CREATE INDEX deployment_by_preview_of ON deployment (preview_of);
