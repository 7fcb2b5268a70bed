-- Validates the constraints that were added to certificates: reads the table once for each, while others read and write.

ALTER TABLE certificates VALIDATE CONSTRAINT certificates_private_key_sealed_check;
ALTER TABLE certificates VALIDATE CONSTRAINT certificates_key_comes_with_csr;
ALTER TABLE certificates VALIDATE CONSTRAINT certificates_issued_is_whole;
ALTER TABLE certificates VALIDATE CONSTRAINT certificates_revoked_has_reason;
ALTER TABLE certificates VALIDATE CONSTRAINT certificates_revoked_was_issued;
