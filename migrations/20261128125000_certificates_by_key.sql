-- Certificates whose key is plain, and those that a key has sealed. Not CONCURRENTLY, with which several migrators at once
-- deadlock: meanwhile, for two passes over the table, certificates are read and not written. Writers wait, or try again.

CREATE INDEX certificates_with_plain_key ON certificates (id) WHERE private_key_pem IS NOT NULL;
CREATE INDEX certificates_sealed_by ON certificates (sealed_by(private_key_sealed), id) WHERE private_key_sealed IS NOT NULL;
