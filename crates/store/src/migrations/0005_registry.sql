-- What is in the registry. A digest is the one that clients name, `stored` the
-- blob store's own of the same bytes.

-- Which blobs a repository has.
CREATE TABLE registry_blob (
    deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    stored TEXT NOT NULL,
    size BIGINT NOT NULL,
    -- Moves when somebody counts on it.
    linked_at BIGINT NOT NULL,
    PRIMARY KEY (repository, digest)
);

CREATE INDEX registry_blob_by_deployment ON registry_blob (deployment_id);
CREATE INDEX registry_blob_by_digest ON registry_blob (digest);

CREATE TABLE registry_manifest (
    deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    stored TEXT NOT NULL,
    size BIGINT NOT NULL,
    media_type TEXT NOT NULL,
    artifact_type TEXT,
    -- What it refers to, be it there or not.
    subject TEXT,
    annotations TEXT NOT NULL,
    -- The digests that it names and that are in the repository with it.
    named TEXT NOT NULL,
    pushed_at BIGINT NOT NULL,
    PRIMARY KEY (repository, digest)
);

CREATE INDEX registry_manifest_by_deployment ON registry_manifest (deployment_id);
CREATE INDEX registry_manifest_by_subject ON registry_manifest (repository, subject);

CREATE TABLE registry_tag (
    deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
    repository TEXT NOT NULL,
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    tagged_at BIGINT NOT NULL,
    PRIMARY KEY (repository, tag)
);

CREATE INDEX registry_tag_by_deployment ON registry_tag (deployment_id);

CREATE TABLE registry_upload (
    id TEXT PRIMARY KEY,
    deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
    repository TEXT NOT NULL,
    begun_at BIGINT NOT NULL,
    touched_at BIGINT NOT NULL
);

CREATE INDEX registry_upload_by_deployment ON registry_upload (deployment_id);
