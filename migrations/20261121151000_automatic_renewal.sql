-- The scheduled job renew-due: when a certificate with auto_renew is renewed, and what its CA suggests for that.

ALTER TABLE jobs DROP CONSTRAINT jobs_kind_check,
    ADD CONSTRAINT jobs_kind_check CHECK (kind IN ('poll-challenge', 'deliver-event', 'sweep', 'purge', 'renew-due')) NOT VALID;
ALTER TABLE jobs VALIDATE CONSTRAINT jobs_kind_check;

ALTER TABLE certificates
    ADD COLUMN renew_at         timestamptz,
    ADD COLUMN renewal_tried_at timestamptz,
    ADD COLUMN renewal_ended_at timestamptz,
    ADD COLUMN ari_window_start timestamptz,
    ADD COLUMN ari_window_end   timestamptz,
    ADD COLUMN ari_checked_at   timestamptz,
    ADD COLUMN ari_check_due    timestamptz,
    ADD CONSTRAINT certificates_ari_window_is_whole CHECK (num_nulls(ari_window_start, ari_window_end) IN (0, 2)) NOT VALID;
ALTER TABLE certificates VALIDATE CONSTRAINT certificates_ari_window_is_whole;
COMMENT ON COLUMN certificates.renew_at IS
    'When the job renew-due renews it, or looks at it again; NULL: not planned yet. Matters only where auto_renew is set.';
COMMENT ON COLUMN certificates.renewal_tried_at IS 'When renew-due last ordered a successor; the next try is a day later.';
COMMENT ON COLUMN certificates.renewal_ended_at IS
    'Since when renew-due leaves it alone: it has an issued successor, has expired, or its domain is deleted.';
COMMENT ON COLUMN certificates.ari_window_start IS
    'Start of the window that the CA last suggested for its renewal (RFC 9773); renew_at was chosen inside it, once. NULL: none.';
COMMENT ON COLUMN certificates.ari_window_end IS 'End of that window.';
COMMENT ON COLUMN certificates.ari_checked_at IS 'When the CA was last asked for the window, whatever it said.';
COMMENT ON COLUMN certificates.ari_check_due IS 'When the CA is to be asked for the window; NULL until it is planned.';

-- What is due is the beginning of an index, and so is what is not planned yet.
CREATE INDEX certificates_renew_at ON certificates (renew_at)
    WHERE auto_renew AND state = 'issued' AND renewal_ended_at IS NULL;
CREATE INDEX certificates_ari_check_due ON certificates (ari_check_due)
    WHERE auto_renew AND state = 'issued' AND renewal_ended_at IS NULL;

INSERT INTO jobs (kind, lane) VALUES ('renew-due', 2);
