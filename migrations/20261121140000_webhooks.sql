-- Webhooks of accounts, the events that they are told of, and what became of telling.

CREATE TABLE webhooks (
    id                   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id           bigint      NOT NULL REFERENCES accounts,
    url                  text        NOT NULL CHECK (url ~* '^https://' AND length(url) <= 2048),
    secret               text        CHECK (secret LIKE 'whsec\_%'),
    consecutive_failures integer     NOT NULL DEFAULT 0 CHECK (consecutive_failures >= 0),
    suppressed_at        timestamptz,
    created_at           timestamptz NOT NULL DEFAULT now(),
    deleted_at           timestamptz
);
CREATE INDEX webhooks_of_account ON webhooks (account_id, id) WHERE deleted_at IS NULL;
CREATE INDEX webhooks_deleted ON webhooks (deleted_at) WHERE deleted_at IS NOT NULL;
COMMENT ON TABLE webhooks IS 'Where accounts want to be told of their events.';
COMMENT ON COLUMN webhooks.id IS 'The id of the /v2 API.';
COMMENT ON COLUMN webhooks.account_id IS 'Whose events go there.';
COMMENT ON COLUMN webhooks.url IS 'As the caller wrote it. It may hold what only its receiver should know: never logged.';
COMMENT ON COLUMN webhooks.secret IS 'Standard Webhooks form, whsec_ and base64: signs what is sent. NULL: nothing is signed.';
COMMENT ON COLUMN webhooks.consecutive_failures IS 'Attempts that failed since the last one that did not.';
COMMENT ON COLUMN webhooks.suppressed_at IS 'Since when nothing is sent any more, after too many failures. Never cleared.';
COMMENT ON COLUMN webhooks.created_at IS 'When it was made.';
COMMENT ON COLUMN webhooks.deleted_at IS 'Set by DELETE; the row waits until its deliveries are purged.';

CREATE TABLE events (
    id                 bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_identifier uuid        NOT NULL UNIQUE,
    account_id         bigint      NOT NULL REFERENCES accounts,
    name               text        NOT NULL CHECK (name <> ''),
    payload            jsonb       NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX events_by_age ON events (created_at);
COMMENT ON TABLE events IS 'What happened in an account that has webhooks: written in the transaction in which it happened.';
COMMENT ON COLUMN events.id IS 'Internal key.';
COMMENT ON COLUMN events.request_identifier IS 'By which receivers know an event again; the same in every attempt.';
COMMENT ON COLUMN events.account_id IS 'Whose event it is.';
COMMENT ON COLUMN events.name IS 'Such as certificate.issue.';
COMMENT ON COLUMN events.payload IS 'The body that is sent. Never a private key.';
COMMENT ON COLUMN events.created_at IS 'When it happened (start of the transaction).';

CREATE TABLE deliveries (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id        bigint      NOT NULL REFERENCES events ON DELETE CASCADE,
    webhook_id      bigint      NOT NULL REFERENCES webhooks,
    attempts        integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_attempt_at timestamptz,
    last_status     integer,
    last_error      text,
    delivered_at    timestamptz,
    failed_at       timestamptz,
    CONSTRAINT deliveries_end_one_way CHECK (delivered_at IS NULL OR failed_at IS NULL),
    UNIQUE (event_id, webhook_id)
);
CREATE INDEX deliveries_of_webhook ON deliveries (webhook_id);
COMMENT ON TABLE deliveries IS 'One event to one webhook. When the next attempt is due is in its job.';
COMMENT ON COLUMN deliveries.id IS 'Internal key, and the payload of the delivery''s job.';
COMMENT ON COLUMN deliveries.event_id IS 'What is told.';
COMMENT ON COLUMN deliveries.webhook_id IS 'Who is told.';
COMMENT ON COLUMN deliveries.attempts IS 'Attempts made, those of workers that were lost included.';
COMMENT ON COLUMN deliveries.last_attempt_at IS 'When the last attempt ended.';
COMMENT ON COLUMN deliveries.last_status IS 'HTTP status of the last attempt; NULL when there was no answer.';
COMMENT ON COLUMN deliveries.last_error IS 'Why the last attempt had no answer, or why there are no more; never what a receiver said.';
COMMENT ON COLUMN deliveries.delivered_at IS 'When the receiver acknowledged it.';
COMMENT ON COLUMN deliveries.failed_at IS 'When it was given up.';

ALTER TABLE jobs ADD COLUMN delivery_id bigint UNIQUE REFERENCES deliveries;
ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('poll-challenge', 'deliver-event', 'sweep', 'purge')) NOT VALID;
ALTER TABLE jobs VALIDATE CONSTRAINT jobs_kind_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_delivery_iff_deliver_event
    CHECK ((kind = 'deliver-event') = (delivery_id IS NOT NULL)) NOT VALID;
ALTER TABLE jobs VALIDATE CONSTRAINT jobs_delivery_iff_deliver_event;
DROP INDEX jobs_scheduled_once;
CREATE UNIQUE INDEX jobs_scheduled_once ON jobs (kind) WHERE order_id IS NULL AND delivery_id IS NULL;
COMMENT ON COLUMN jobs.kind IS
    'poll-challenge: one order, for its whole life. deliver-event: one delivery. Others are scheduled, one row each in the fleet.';
COMMENT ON COLUMN jobs.delivery_id IS 'The delivery to make.';
COMMENT ON COLUMN jobs.lane IS '0 somebody waits, 1 polls and later steps, 2 deliveries and housekeeping.';
COMMENT ON COLUMN jobs.attempts IS 'Counted failures since the order last advanced, or of the delivery.';

ALTER TABLE api_tokens DROP CONSTRAINT api_tokens_scopes_check,
    ADD CONSTRAINT api_tokens_scopes_check CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY[
        'certificates:read', 'certificates:write', 'certificates:key', 'domains:*', 'webhooks:*']) NOT VALID;
ALTER TABLE api_tokens VALIDATE CONSTRAINT api_tokens_scopes_check;
