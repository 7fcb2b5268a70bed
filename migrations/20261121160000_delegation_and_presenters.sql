-- A delegation target for each domain, and who publishes the TXT records of an account or of one domain.

ALTER TABLE domains
    ADD COLUMN delegation_label text NOT NULL DEFAULT replace(gen_random_uuid()::text, '-', '')
        CHECK (delegation_label ~ '^[0-9a-f]{32}$'),
    ADD COLUMN delegated_at timestamptz;
CREATE UNIQUE INDEX domains_delegation_label_key ON domains (delegation_label);
COMMENT ON COLUMN domains.delegation_label IS
    'Random label below CHALLENGE_ZONE where our name servers answer for this domain. Never the id, never used again.';
COMMENT ON COLUMN domains.delegated_at IS
    'When its challenge name was last seen to be an alias of that target; NULL: never, so a person publishes its records.';

CREATE TABLE presenter_configs (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id  bigint      NOT NULL REFERENCES accounts,
    domain_id   bigint      REFERENCES domains ON DELETE CASCADE,
    kind        text        NOT NULL CHECK (kind IN ('manual', 'rfc2136', 'webhook')),
    settings    jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    secret      text        CHECK (secret <> ''),
    created_at  timestamptz NOT NULL DEFAULT now(),
    replaced_at timestamptz
);
CREATE UNIQUE INDEX presenter_configs_of_account_key ON presenter_configs (account_id)
    WHERE domain_id IS NULL AND replaced_at IS NULL;
CREATE UNIQUE INDEX presenter_configs_of_domain_key ON presenter_configs (domain_id) WHERE replaced_at IS NULL;
CREATE INDEX presenter_configs_of_domain ON presenter_configs (domain_id);
COMMENT ON TABLE presenter_configs IS
    'Who publishes the TXT records of one domain, or of all domains of an account that have no row of their own. Never changed: replaced.';
COMMENT ON COLUMN presenter_configs.id IS 'Internal key.';
COMMENT ON COLUMN presenter_configs.account_id IS 'Whose it is.';
COMMENT ON COLUMN presenter_configs.domain_id IS 'The one domain it is for; NULL: every domain of the account.';
COMMENT ON COLUMN presenter_configs.kind IS
    'manual = the customer; rfc2136 = dynamic updates to the zone''s primary; webhook = POST to an HTTP service (httpreq).';
COMMENT ON COLUMN presenter_configs.settings IS 'Where and as whom, by kind; no secret.';
COMMENT ON COLUMN presenter_configs.secret IS 'TSIG key, password or token, by kind; NULL where none is needed.';
COMMENT ON COLUMN presenter_configs.created_at IS 'When it was accepted.';
COMMENT ON COLUMN presenter_configs.replaced_at IS
    'Since when another one, or none, is in its place; orders that began with it are cleaned up with it.';

CREATE VIEW domain_presenters AS
    SELECT d.id AS domain_id,
        coalesce(own.kind, CASE WHEN d.delegated_at IS NOT NULL THEN 'delegated' END, every.kind, a.presenter) AS presenter,
        CASE WHEN own.id IS NOT NULL THEN own.id WHEN d.delegated_at IS NULL THEN every.id END AS presenter_config_id,
        own.id IS NULL AND d.delegated_at IS NULL AND every.id IS NULL AS is_fallback
    FROM domains d JOIN accounts a ON a.id = d.account_id
        LEFT JOIN presenter_configs own ON own.domain_id = d.id AND own.replaced_at IS NULL
        LEFT JOIN presenter_configs every
            ON every.account_id = d.account_id AND every.domain_id IS NULL AND every.replaced_at IS NULL;
COMMENT ON VIEW domain_presenters IS
    'Who would publish the TXT records of an order that was made now: as the domain says, or our name servers, or as the account says.';
COMMENT ON COLUMN domain_presenters.domain_id IS 'The domain.';
COMMENT ON COLUMN domain_presenters.presenter IS 'As orders.presenter.';
COMMENT ON COLUMN domain_presenters.presenter_config_id IS 'As orders.presenter_config_id.';
COMMENT ON COLUMN domain_presenters.is_fallback IS 'Nothing is configured and nothing delegated: accounts.presenter, which orders of /domains do not obey.';

ALTER TABLE orders DROP CONSTRAINT orders_presenter_check,
    ADD CONSTRAINT orders_presenter_check
        CHECK (presenter IN ('manual', 'delegated', 'rfc2136', 'webhook', 'test-dns')) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_presenter_check;
ALTER TABLE orders ADD COLUMN presenter_config_id bigint REFERENCES presenter_configs,
    ADD CONSTRAINT orders_presenter_has_config
        CHECK (presenter NOT IN ('rfc2136', 'webhook') OR presenter_config_id IS NOT NULL);
CREATE INDEX orders_of_presenter_config ON orders (presenter_config_id) WHERE presenter_config_id IS NOT NULL;
-- What a name server answers for a domain: the values of its orders until they are cleaned up.
CREATE INDEX orders_of_domain_not_cleaned_up ON orders (domain_id) WHERE cleaned_up_at IS NULL;
COMMENT ON COLUMN orders.presenter IS
    'Who publishes its TXT records: manual = the customer; delegated = our name servers; otherwise as presenter_configs.kind.';
COMMENT ON COLUMN orders.presenter_config_id IS 'With which settings; also for their removal. NULL where none are needed.';

-- Certificates of /domains are renewed where that needs nobody: the newest of each domain from now on.
UPDATE certificates c SET auto_renew = true
WHERE c.origin = 'challenge' AND c.state = 'issued' AND NOT EXISTS (
    SELECT FROM certificates newer WHERE newer.domain_id = c.domain_id AND newer.origin = 'challenge' AND newer.state = 'issued'
        AND newer.id > c.id)
    AND NOT EXISTS (SELECT FROM certificates successor WHERE successor.successor_of = c.id AND successor.state = 'issued');
COMMENT ON COLUMN accounts.presenter IS
    'Who publishes the TXT records of certificates of /v2 where nothing else is configured: manual = the customer.';
