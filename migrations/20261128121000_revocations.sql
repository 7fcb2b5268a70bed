-- Revoked certificates; entries of the audit for what an operator does without a token.

ALTER TABLE certificates
    ADD COLUMN revoked_at        timestamptz,
    ADD COLUMN revocation_reason smallint,
    ADD CONSTRAINT certificates_revoked_has_reason CHECK (num_nulls(revoked_at, revocation_reason) IN (0, 2)) NOT VALID,
    ADD CONSTRAINT certificates_revoked_was_issued CHECK (revoked_at IS NULL OR state = 'issued') NOT VALID;
COMMENT ON COLUMN certificates.revoked_at IS 'When its revocation was recorded, after the CA had revoked it. NULL: not revoked by us.';
COMMENT ON COLUMN certificates.revocation_reason IS 'The reason that the CA was given: a CRLReason of RFC 5280 section 5.3.1.';

ALTER TABLE audit_entries ALTER COLUMN token_id DROP NOT NULL;
COMMENT ON TABLE audit_entries IS
    'Every change made with a token of /v2, every read or export of a private key, every revocation: written with it, never changed.';
COMMENT ON COLUMN audit_entries.account_id IS 'The account it was done in.';
COMMENT ON COLUMN audit_entries.token_id IS 'Who; NULL: an operator, by countersignctl.';
