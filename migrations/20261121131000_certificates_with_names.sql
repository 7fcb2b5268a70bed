-- Certificates that are ordered through /v2: with names, an algorithm, and in two acts, order and issue.

ALTER TABLE certificates DROP CONSTRAINT certificates_origin_check,
    ADD CONSTRAINT certificates_origin_check CHECK (origin IN ('challenge', 'order')) NOT VALID;
ALTER TABLE certificates VALIDATE CONSTRAINT certificates_origin_check;
ALTER TABLE certificates DROP CONSTRAINT certificates_state_check,
    ADD CONSTRAINT certificates_state_check
        CHECK (state IN ('new', 'requesting', 'issued', 'failed', 'cancelled')) NOT VALID;
ALTER TABLE certificates VALIDATE CONSTRAINT certificates_state_check;
ALTER TABLE certificates
    ADD COLUMN name            text    NOT NULL DEFAULT '',
    ADD COLUMN common_name     text,
    ADD COLUMN alternate_names text[]  NOT NULL DEFAULT '{}',
    ADD COLUMN auto_renew      boolean NOT NULL DEFAULT false;
UPDATE certificates c SET common_name = d.name FROM domains d WHERE d.id = c.domain_id;
COMMENT ON COLUMN certificates.origin IS
    'What asked for it: challenge = POST /domains/{id}/issue-certificate, order = POST /v2/…/certificates/letsencrypt.';
COMMENT ON COLUMN certificates.state IS
    'new: ordered through /v2, not asked of the CA. requesting while an order works for it; issued, failed, cancelled are final.';
COMMENT ON COLUMN certificates.name IS 'Labels below the domain; empty: the domain itself. www covers the domain too.';
COMMENT ON COLUMN certificates.common_name IS 'Name and domain; NULL in rows of an older release: the domain.';
COMMENT ON COLUMN certificates.alternate_names IS 'Further names, whole, as ordered.';
COMMENT ON COLUMN certificates.auto_renew IS 'Whether it is to be renewed before it expires.';

CREATE INDEX certificates_new ON certificates (created_at) WHERE state = 'new';
-- By -id, which the primary key has not in order: it would be walked through all other certificates for those of one domain.
CREATE INDEX certificates_of_domain_by_id ON certificates (domain_id, (-id));
DROP INDEX certificates_of_domain;
CREATE INDEX certificates_of_domain_by_common_name ON certificates (domain_id, common_name, (-id));
-- Both, because those without a date come last in either direction.
CREATE INDEX certificates_of_domain_by_expiry ON certificates (domain_id, not_after, (-id));
CREATE INDEX certificates_of_domain_by_latest_expiry ON certificates (domain_id, not_after DESC NULLS LAST, (-id));

-- The same for the domains of an account.
DROP INDEX domains_of_account_by_id, domains_of_account_by_name;
CREATE INDEX domains_of_account_by_id ON domains (account_id, (-id)) WHERE deleted_at IS NULL;
CREATE INDEX domains_of_account_by_name ON domains (account_id, name, (-id)) WHERE deleted_at IS NULL;

ALTER TABLE orders DROP CONSTRAINT orders_origin_check,
    ADD CONSTRAINT orders_origin_check CHECK (origin IN ('challenge', 'order')) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_origin_check;
ALTER TABLE orders ADD COLUMN presenter text NOT NULL DEFAULT 'manual' CHECK (presenter IN ('manual', 'test-dns'));
COMMENT ON COLUMN orders.origin IS
    'What asked for it: challenge = POST /domains/{id}/issue-certificate, order = an issue call of /v2.';
COMMENT ON COLUMN orders.presenter IS 'Who publishes its TXT records: manual = the customer.';

-- Whose values are still needed at a name: one row for each order that has not been cleaned up.
CREATE INDEX authorizations_of_identifier ON authorizations (identifier, order_id);
