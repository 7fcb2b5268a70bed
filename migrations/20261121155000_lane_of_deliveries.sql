-- A lane of their own for deliveries of events, a hold for questions about renewal windows, an index for what the purge takes;
-- and what the columns of idempotency keys hold now.

ALTER TABLE jobs DROP CONSTRAINT jobs_lane_check,
    ADD CONSTRAINT jobs_lane_check CHECK (lane BETWEEN 0 AND 3) NOT VALID;
ALTER TABLE jobs VALIDATE CONSTRAINT jobs_lane_check;
COMMENT ON COLUMN jobs.lane IS
    '0 somebody waits, 1 polls and later steps, 2 housekeeping, 3 deliveries. A delivery of an older release is in lane 2.';

ALTER TABLE acme_accounts ADD COLUMN windows_held_until timestamptz;
COMMENT ON COLUMN acme_accounts.windows_held_until IS
    'Until when the CA is not asked about renewal windows, by the Retry-After of a refusal. Orders go on meanwhile. NULL: never asked for.';

CREATE INDEX certificates_cancelled ON certificates (updated_at) WHERE state = 'cancelled';

COMMENT ON COLUMN idempotency_keys.caller IS 'Whose key it is: domains, or the token of /v2.';
COMMENT ON COLUMN idempotency_keys.path IS 'SHA-256 of the path of the request, in hex.';
COMMENT ON COLUMN idempotency_keys.request_sha256 IS 'SHA-256 of the body; all zeros when it could not be read.';
