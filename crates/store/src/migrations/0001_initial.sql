-- Read by SQLite and PostgreSQL alike. Times are microseconds since 1970, ids
-- and digests are text as people see them, structures are JSON.

CREATE TABLE installation (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE workspace (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE deployment (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL REFERENCES workspace (id),
    created_at BIGINT NOT NULL,
    -- Moves with every change that somebody may be waiting for.
    changed_at BIGINT NOT NULL,
    settings TEXT NOT NULL,
    -- Encrypted; the names are not.
    environment BYTEA,
    environment_names TEXT NOT NULL,
    -- Moves with every change of what agents are answered.
    generation BIGINT NOT NULL,
    target_deploy TEXT,
    target_release TEXT,
    target_attempt BIGINT,
    target_since BIGINT,
    -- The generation in which this target and attempt began.
    target_generation BIGINT,
    target_may_switch BIGINT,
    proven_deploy TEXT,
    proven_release TEXT
);

CREATE INDEX deployment_by_change ON deployment (changed_at);

CREATE TABLE deploy (
    id TEXT PRIMARY KEY,
    deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    state_facts TEXT NOT NULL,
    revision BIGINT NOT NULL,
    idempotency_key TEXT NOT NULL,
    parts TEXT NOT NULL,
    release_id TEXT,
    base_release_id TEXT,
    changed TEXT NOT NULL,
    carried TEXT NOT NULL,
    files TEXT NOT NULL,
    description TEXT NOT NULL,
    git TEXT,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    touched_at BIGINT NOT NULL,
    accepted_at BIGINT,
    on_disk_at BIGINT,
    proven_at BIGINT,
    ended_at BIGINT,
    proof TEXT,
    failure TEXT,
    returns_to TEXT,
    UNIQUE (deployment_id, idempotency_key)
);

CREATE INDEX deploy_by_deployment ON deploy (deployment_id, id);
CREATE INDEX deploy_by_state ON deploy (state, touched_at);

CREATE TABLE deploy_event (
    deploy_id TEXT NOT NULL REFERENCES deploy (id) ON DELETE CASCADE,
    revision BIGINT NOT NULL,
    at BIGINT NOT NULL,
    state TEXT NOT NULL,
    facts TEXT NOT NULL,
    PRIMARY KEY (deploy_id, revision)
);

CREATE TABLE release (
    id TEXT PRIMARY KEY,
    deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    content TEXT NOT NULL
);

CREATE INDEX release_by_deployment ON release (deployment_id, id);

-- The blobs that Releases of a Deployment name: what its agents may fetch.
CREATE TABLE release_blob (
    deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    PRIMARY KEY (deployment_id, digest)
);

CREATE TABLE manifest (
    digest TEXT PRIMARY KEY,
    content TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- What is in a layer, so that comparing never reads archives again.
CREATE TABLE layer (
    digest TEXT PRIMARY KEY,
    file_table BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE token (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    scope TEXT NOT NULL,
    -- The Deployment of a scope that is one, to find its tokens by.
    deployment_id TEXT,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    last_used_at BIGINT
);

CREATE INDEX token_by_deployment ON token (deployment_id);

CREATE TABLE enrollment (
    id TEXT PRIMARY KEY,
    deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
    code_hash TEXT NOT NULL UNIQUE,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);

CREATE TABLE agent (
    id TEXT PRIMARY KEY,
    deployment_id TEXT NOT NULL REFERENCES deployment (id) ON DELETE CASCADE,
    token_id TEXT NOT NULL,
    host TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    report TEXT NOT NULL
);

CREATE INDEX agent_by_deployment ON agent (deployment_id);
CREATE INDEX agent_by_token ON agent (token_id);
