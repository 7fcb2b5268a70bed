-- Who did what with a token; and what was answered to requests that may come twice.

CREATE TABLE audit_entries (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    account_id bigint      NOT NULL REFERENCES accounts,
    token_id   bigint      NOT NULL REFERENCES api_tokens,
    action     text        NOT NULL,
    subject    text        NOT NULL,
    request_id text        NOT NULL
);
CREATE INDEX audit_entries_of_account ON audit_entries (account_id, id);
COMMENT ON TABLE audit_entries IS 'Every change made with a token of /v2, and every read of a private key: written with the change, never changed.';
COMMENT ON COLUMN audit_entries.id IS 'Internal key; the order of entries.';
COMMENT ON COLUMN audit_entries.at IS 'When it was committed (start of the transaction).';
COMMENT ON COLUMN audit_entries.account_id IS 'The token''s account.';
COMMENT ON COLUMN audit_entries.token_id IS 'Who.';
COMMENT ON COLUMN audit_entries.action IS 'What: certificate.order, private_key.read, ….';
COMMENT ON COLUMN audit_entries.subject IS 'Of what, in words that outlive the row: certificate 7 of shop.example.com.';
COMMENT ON COLUMN audit_entries.request_id IS 'The request.';

CREATE TABLE idempotency_keys (
    caller         text        NOT NULL,
    path           text        NOT NULL,
    key            text        NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 255),
    request_sha256 bytea       NOT NULL CHECK (length(request_sha256) = 32),
    run            bigint      NOT NULL DEFAULT 1,
    runs_until     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    status         integer     CHECK (status BETWEEN 200 AND 299),
    body           bytea,
    PRIMARY KEY (caller, path, key),
    CONSTRAINT idempotency_keys_answer_is_whole CHECK ((status IS NULL) = (body IS NULL))
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
COMMENT ON TABLE idempotency_keys IS 'Requests that came with an Idempotency-Key in the last 24 hours, and what was answered if it went well.';
COMMENT ON COLUMN idempotency_keys.caller IS 'Whose key it is: domains, or the account of /v2.';
COMMENT ON COLUMN idempotency_keys.path IS 'The path of the request, as it came.';
COMMENT ON COLUMN idempotency_keys.key IS 'The header.';
COMMENT ON COLUMN idempotency_keys.request_sha256 IS 'SHA-256 of the body.';
COMMENT ON COLUMN idempotency_keys.run IS 'Grows with every run: only the last one keeps its answer or frees the key.';
COMMENT ON COLUMN idempotency_keys.runs_until IS 'While there is no answer: until when the request is taken to be still running.';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When the key was first used; it is forgotten 24 hours later.';
COMMENT ON COLUMN idempotency_keys.status IS 'HTTP status of the answer; NULL while the request runs.';
COMMENT ON COLUMN idempotency_keys.body IS 'Body of the answer.';
