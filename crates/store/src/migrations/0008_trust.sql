-- Pipelines whose identity is trusted, and what that gives them.
CREATE TABLE trust (
    id TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    -- The Deployment of a scope that is one, to find its trusts by.
    deployment_id TEXT REFERENCES deployment (id) ON DELETE CASCADE,
    issuer TEXT NOT NULL,
    -- What is asked of an identity; never changes.
    content TEXT NOT NULL,
    -- Ids that the first exchange brought, and that all others have to bring.
    pinned TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT
);

CREATE INDEX trust_by_issuer ON trust (issuer);

-- What became of each exchange. Stays when the trust goes.
CREATE TABLE trust_log (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    trust_id TEXT,
    scope TEXT,
    deployment_id TEXT REFERENCES deployment (id) ON DELETE CASCADE,
    outcome TEXT NOT NULL,
    identity TEXT NOT NULL,
    token_id TEXT,
    why TEXT
);

CREATE INDEX trust_log_by_deployment ON trust_log (deployment_id, id);

-- The trust that a token comes from.
ALTER TABLE token ADD COLUMN trust_id TEXT;

CREATE INDEX token_by_trust ON token (trust_id);

-- Deploys that a token may go on with after it has expired.
CREATE TABLE token_deploy (
    token_id TEXT NOT NULL REFERENCES token (id) ON DELETE CASCADE,
    deploy_id TEXT NOT NULL REFERENCES deploy (id) ON DELETE CASCADE,
    PRIMARY KEY (token_id, deploy_id)
);

CREATE INDEX token_deploy_by_deploy ON token_deploy (deploy_id);
