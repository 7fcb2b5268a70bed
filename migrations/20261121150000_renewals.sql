-- Renewals: a certificate and the successor that takes over its names.

ALTER TABLE certificates DROP CONSTRAINT certificates_origin_check,
    ADD CONSTRAINT certificates_origin_check CHECK (origin IN ('challenge', 'order', 'renewal')) NOT VALID;
ALTER TABLE certificates VALIDATE CONSTRAINT certificates_origin_check;
ALTER TABLE certificates ADD COLUMN successor_of bigint;
ALTER TABLE certificates ADD CONSTRAINT certificates_successor_of_fkey
    FOREIGN KEY (successor_of) REFERENCES certificates ON DELETE SET NULL NOT VALID;
ALTER TABLE certificates VALIDATE CONSTRAINT certificates_successor_of_fkey;
COMMENT ON COLUMN certificates.origin IS
    'What asked for it: challenge = POST /domains/{id}/issue-certificate, order = POST /v2/…/certificates/letsencrypt, renewal = the certificate that it succeeds.';
COMMENT ON COLUMN certificates.successor_of IS 'The certificate whose names it took over by a renewal; NULL when there is none.';
-- For the check of the foreign key, and for the line of successors.
CREATE INDEX certificates_successor_of ON certificates (successor_of) WHERE successor_of IS NOT NULL;

ALTER TABLE orders DROP CONSTRAINT orders_origin_check,
    ADD CONSTRAINT orders_origin_check CHECK (origin IN ('challenge', 'order', 'renewal')) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_origin_check;
COMMENT ON COLUMN orders.origin IS
    'What asked for it: challenge = POST /domains/{id}/issue-certificate, order = an issue call of /v2, renewal = one for a successor, by /v2 or by the job renew-due.';

CREATE TABLE renewals (
    id                 bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    old_certificate_id bigint      NOT NULL REFERENCES certificates ON DELETE CASCADE,
    new_certificate_id bigint      NOT NULL UNIQUE REFERENCES certificates ON DELETE CASCADE,
    state              text        NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'renewing', 'renewed', 'failed', 'cancelled')),
    auto_renew         boolean     NOT NULL,
    is_automatic       boolean     NOT NULL DEFAULT false,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT renewals_of_two_certificates CHECK (old_certificate_id <> new_certificate_id)
);
CREATE UNIQUE INDEX renewals_one_live_per_certificate ON renewals (old_certificate_id) WHERE state IN ('new', 'renewing');
CREATE INDEX renewals_of_certificate ON renewals (old_certificate_id, id);
COMMENT ON TABLE renewals IS 'One attempt each to have a certificate succeeded by a new one. It ends with the successor''s order.';
COMMENT ON COLUMN renewals.id IS 'The id of the /v2 API; a sequence of its own.';
COMMENT ON COLUMN renewals.old_certificate_id IS 'The certificate that is to be succeeded; it stays as it is.';
COMMENT ON COLUMN renewals.new_certificate_id IS 'The successor, made with the renewal.';
COMMENT ON COLUMN renewals.state IS
    'new: the successor is ordered, not asked of the CA. renewing while an order works for it; renewed, failed, cancelled are final.';
COMMENT ON COLUMN renewals.auto_renew IS 'Whether the successor is to be renewed before it expires.';
COMMENT ON COLUMN renewals.is_automatic IS 'Made by the job renew-due, not by a call.';
COMMENT ON COLUMN renewals.created_at IS 'When it was ordered.';
COMMENT ON COLUMN renewals.updated_at IS 'Last change of the row.';
