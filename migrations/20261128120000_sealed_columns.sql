-- Secrets sealed by the keys of ENCRYPTION_KEYS, beside the columns that hold them plain; which keys are in use.

CREATE TABLE encryption_keys (
    id         text        PRIMARY KEY CHECK (id ~ '^[a-z0-9_-]{1,32}$'),
    canary     bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE encryption_keys IS
    'Every key of the ring of a program that started here, or sealed: written before its first value, never deleted, so that no id ever means another key.';
COMMENT ON COLUMN encryption_keys.id IS 'The id in ENCRYPTION_KEYS, and inside every value that the key has sealed.';
COMMENT ON COLUMN encryption_keys.canary IS 'A value sealed by this key, by which every program that starts knows whether its key is the right one.';
COMMENT ON COLUMN encryption_keys.created_at IS 'When a program first had it in its ring.';

CREATE FUNCTION sealed_by(sealed bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT encode(substr(sealed, 3, get_byte(sealed, 1)), 'escape') $$;
COMMENT ON FUNCTION sealed_by IS 'The id of the key that sealed a value: version (1 byte), length of the id (1 byte), id, nonce, ciphertext.';

-- The constraints of `certificates`, which grows, are validated by a later file: this one locks the table for an instant.
ALTER TABLE certificates
    ADD COLUMN private_key_sealed bytea,
    ADD CONSTRAINT certificates_private_key_sealed_check CHECK (length(private_key_sealed) > 31) NOT VALID;
ALTER TABLE certificates DROP CONSTRAINT certificates_key_comes_with_csr,
    ADD CONSTRAINT certificates_key_comes_with_csr CHECK (
        num_nonnulls(private_key_pem, private_key_sealed) = CASE WHEN csr IS NULL THEN 0 ELSE 1 END) NOT VALID;
-- With a CSR, and so with exactly one of the two keys.
ALTER TABLE certificates DROP CONSTRAINT certificates_issued_is_whole,
    ADD CONSTRAINT certificates_issued_is_whole CHECK (state <> 'issued' OR num_nulls(csr, certificate_pem, issued_at,
        not_before, not_after, serial_number, fingerprint_sha256, issuer) = 0) NOT VALID;
COMMENT ON COLUMN certificates.private_key_pem IS 'PEM of the private key (PKCS#1 or SEC1); NULL where it is sealed.';
COMMENT ON COLUMN certificates.private_key_sealed IS 'The same, sealed by a key of ENCRYPTION_KEYS for this row alone; NULL where it is plain.';

ALTER TABLE acme_accounts ALTER COLUMN private_key_pem DROP NOT NULL;
ALTER TABLE acme_accounts
    ADD COLUMN private_key_sealed bytea CHECK (length(private_key_sealed) > 31),
    ADD COLUMN next_private_key_pem text,
    ADD COLUMN next_private_key_sealed bytea CHECK (length(next_private_key_sealed) > 31),
    ADD CONSTRAINT acme_accounts_has_one_key CHECK (num_nonnulls(private_key_pem, private_key_sealed) = 1),
    ADD CONSTRAINT acme_accounts_has_one_next_key CHECK (num_nonnulls(next_private_key_pem, next_private_key_sealed) <= 1);
COMMENT ON COLUMN acme_accounts.private_key_pem IS
    'RSA account key, PKCS#8 PEM; stored before the account is registered with it. NULL where it is sealed.';
COMMENT ON COLUMN acme_accounts.private_key_sealed IS 'The same, sealed for this row alone; NULL where it is plain.';
COMMENT ON COLUMN acme_accounts.next_private_key_pem IS
    'Key that the account is being given (RFC 8555 section 7.3.5), stored before the CA is told; NULL: none, or it is sealed.';
COMMENT ON COLUMN acme_accounts.next_private_key_sealed IS 'The same, sealed for this row alone.';

ALTER TABLE presenter_configs
    ADD COLUMN secret_sealed bytea CHECK (length(secret_sealed) > 31),
    ADD CONSTRAINT presenter_configs_has_one_secret CHECK (num_nonnulls(secret, secret_sealed) <= 1);
COMMENT ON COLUMN presenter_configs.secret_sealed IS 'The secret, sealed for this row alone; NULL where it is plain or there is none.';

ALTER TABLE presenter_proposals
    ADD COLUMN secret_sealed bytea CHECK (length(secret_sealed) > 31),
    ADD CONSTRAINT presenter_proposals_has_one_secret CHECK (num_nonnulls(secret, secret_sealed) <= 1),
    -- Also so that a worker of an older release, which sees no secret, cannot refuse it for that.
    ADD CONSTRAINT presenter_proposals_refused_keeps_no_sealed_secret CHECK (refused_at IS NULL OR secret_sealed IS NULL);
COMMENT ON COLUMN presenter_proposals.secret_sealed IS 'The secret, sealed for this row alone; NULL where it is plain or there is none.';

ALTER TABLE webhooks
    ADD COLUMN secret_sealed bytea CHECK (length(secret_sealed) > 31),
    ADD CONSTRAINT webhooks_has_one_secret CHECK (num_nonnulls(secret, secret_sealed) <= 1);
COMMENT ON COLUMN webhooks.secret_sealed IS 'The secret, sealed for this row alone; NULL where it is plain or there is none.';

-- What is plain, and what is sealed by which key: for sealing, rotating, counting, and the check at every start. Those of
-- `certificates` are in a later file.
CREATE INDEX presenter_configs_with_plain_secret ON presenter_configs (id) WHERE secret IS NOT NULL;
CREATE INDEX presenter_configs_sealed_by ON presenter_configs (sealed_by(secret_sealed), id) WHERE secret_sealed IS NOT NULL;
CREATE INDEX presenter_proposals_with_plain_secret ON presenter_proposals (id) WHERE secret IS NOT NULL;
CREATE INDEX presenter_proposals_sealed_by ON presenter_proposals (sealed_by(secret_sealed), id)
    WHERE secret_sealed IS NOT NULL;
CREATE INDEX webhooks_with_plain_secret ON webhooks (id) WHERE secret IS NOT NULL;
CREATE INDEX webhooks_sealed_by ON webhooks (sealed_by(secret_sealed), id) WHERE secret_sealed IS NOT NULL;
