-- The first schema: domains, their certificates and orders, the CA account, and the queue.

CREATE TABLE domains (
    id                 bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id          text        NOT NULL UNIQUE CHECK (public_id ~ '^[0-9a-f]{32}$'),
    account_id         bigint      NOT NULL DEFAULT 1,
    name               text        NOT NULL CHECK (length(name) BETWEEN 3 AND 237 AND name = lower(name)),
    supplied_name      text        NOT NULL,
    status             text        NOT NULL DEFAULT 'pending'
                       CHECK (status IN ('pending', 'verified', 'certificate_pending', 'active', 'failed')),
    verification_token text        NOT NULL CHECK (verification_token ~ '^[0-9a-f]{64}$'),
    verified_at        timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    deleted_at         timestamptz,
    CONSTRAINT domains_verified_before_issuance CHECK (status = 'pending' OR verified_at IS NOT NULL)
);
CREATE UNIQUE INDEX domains_name_key ON domains (name) WHERE deleted_at IS NULL;

COMMENT ON TABLE domains IS 'A customer''s registered domain and where it stands in the documented life cycle.';
COMMENT ON COLUMN domains.id IS 'Internal key; never shown by /domains.';
COMMENT ON COLUMN domains.public_id IS 'The id of the /domains API: 16 random bytes in hex.';
COMMENT ON COLUMN domains.account_id IS 'Owner of the row; 1 is the default account.';
COMMENT ON COLUMN domains.name IS 'Normalised name: lower-case A-labels, no trailing dot. Unique among domains not deleted.';
COMMENT ON COLUMN domains.supplied_name IS 'The name exactly as the caller wrote it.';
COMMENT ON COLUMN domains.status IS 'The public status; certificate_pending, active and failed are written by workers only.';
COMMENT ON COLUMN domains.verification_token IS 'TXT value that proves ownership: SHA-256 of 32 random bytes, in hex.';
COMMENT ON COLUMN domains.verified_at IS 'When the token was last seen in DNS.';
COMMENT ON COLUMN domains.created_at IS 'When the domain was registered.';
COMMENT ON COLUMN domains.updated_at IS 'Last change of the row; a poll that finds nothing does not change it.';
COMMENT ON COLUMN domains.deleted_at IS 'Set by DELETE; the name is free from then on, the row waits for clean-up.';

CREATE FUNCTION check_domain_status_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, NEW.status) NOT IN (
        ('pending', 'verified'), ('verified', 'certificate_pending'),
        ('certificate_pending', 'active'), ('certificate_pending', 'failed'),
        ('failed', 'verified'), ('failed', 'certificate_pending'), ('active', 'verified')
    ) THEN
        RAISE EXCEPTION 'domain % cannot go from % to %', OLD.public_id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'domains_status_moves';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER domains_status_moves BEFORE UPDATE OF status ON domains
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION check_domain_status_move();

CREATE TABLE certificates (
    id                 bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id          text        NOT NULL UNIQUE CHECK (public_id ~ '^[0-9a-f]{32}$'),
    domain_id          bigint      NOT NULL REFERENCES domains,
    origin             text        NOT NULL CHECK (origin IN ('challenge')),
    state              text        NOT NULL CHECK (state IN ('requesting', 'issued', 'failed', 'cancelled')),
    algorithm          text        NOT NULL CHECK (algorithm IN ('rsa2048', 'ecdsa_p256')),
    csr                text,
    private_key_pem    text,
    certificate_pem    text,
    issued_at          timestamptz,
    not_before         timestamptz,
    not_after          timestamptz,
    serial_number      text        CHECK (serial_number ~ '^[0-9a-f]+$'),
    fingerprint_sha256 text        UNIQUE CHECK (fingerprint_sha256 ~ '^[0-9a-f]{64}$'),
    issuer             text,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT certificates_key_comes_with_csr CHECK ((csr IS NULL) = (private_key_pem IS NULL)),
    CONSTRAINT certificates_issued_is_whole CHECK (state <> 'issued' OR num_nulls(csr, private_key_pem,
        certificate_pem, issued_at, not_before, not_after, serial_number, fingerprint_sha256, issuer) = 0),
    CONSTRAINT certificates_chain_only_when_issued CHECK (state = 'issued' OR certificate_pem IS NULL)
);
CREATE INDEX certificates_issued_of_domain ON certificates (domain_id, id DESC) WHERE state = 'issued';

COMMENT ON TABLE certificates IS 'One certificate each, from the order that asks for it to the stored chain and key.';
COMMENT ON COLUMN certificates.id IS 'Internal key.';
COMMENT ON COLUMN certificates.public_id IS 'The id shown by GET /domains/{id}/certificate.';
COMMENT ON COLUMN certificates.domain_id IS 'The domain it belongs to.';
COMMENT ON COLUMN certificates.origin IS 'What asked for it: challenge = POST /domains/{id}/issue-certificate.';
COMMENT ON COLUMN certificates.state IS 'requesting while an order works for it; issued, failed, cancelled are final.';
COMMENT ON COLUMN certificates.algorithm IS 'Algorithm of its key pair.';
COMMENT ON COLUMN certificates.csr IS 'PEM of the CSR; stored with the key before the CA sees it.';
COMMENT ON COLUMN certificates.private_key_pem IS 'PEM of the private key (PKCS#1 or SEC1).';
COMMENT ON COLUMN certificates.certificate_pem IS 'PEM of leaf and chain, leaf first.';
COMMENT ON COLUMN certificates.issued_at IS 'When the chain was fetched and stored.';
COMMENT ON COLUMN certificates.not_before IS 'Validity of the leaf, from.';
COMMENT ON COLUMN certificates.not_after IS 'Validity of the leaf, until. Everything that depends on expiry reads this.';
COMMENT ON COLUMN certificates.serial_number IS 'Serial number of the leaf, lower-case hex.';
COMMENT ON COLUMN certificates.fingerprint_sha256 IS 'SHA-256 of the leaf''s DER, lower-case hex.';
COMMENT ON COLUMN certificates.issuer IS 'Common name of the leaf''s issuer.';
COMMENT ON COLUMN certificates.created_at IS 'When the certificate was asked for.';
COMMENT ON COLUMN certificates.updated_at IS 'Last change of the row.';

CREATE TABLE orders (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id      text        NOT NULL UNIQUE CHECK (public_id ~ '^[0-9a-f]{32}$'),
    domain_id      bigint      NOT NULL REFERENCES domains,
    certificate_id bigint      NOT NULL REFERENCES certificates,
    origin         text        NOT NULL CHECK (origin IN ('challenge')),
    state          text        NOT NULL DEFAULT 'accepted' CHECK (state IN ('accepted', 'placed', 'presented', 'confirmed',
                               'responded', 'authorized', 'prepared', 'finalizing', 'issued', 'failed', 'cancelled')),
    revision       bigint      NOT NULL DEFAULT 0,
    directory      text,
    acme_url       text,
    place_by       timestamptz,
    placed_at      timestamptz,
    deadline_at    timestamptz,
    seen_at        timestamptz,
    ended_at       timestamptz,
    cleaned_up_at  timestamptz,
    problem        jsonb,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT orders_placed_is_whole CHECK (num_nulls(directory, acme_url, placed_at, deadline_at) IN (0, 4)),
    CONSTRAINT orders_past_accepted_are_placed CHECK (state IN ('accepted', 'failed', 'cancelled') OR placed_at IS NOT NULL),
    CONSTRAINT orders_ended_has_time CHECK ((state IN ('issued', 'failed', 'cancelled')) = (ended_at IS NOT NULL)),
    CONSTRAINT orders_failed_has_problem CHECK (state <> 'failed' OR problem IS NOT NULL),
    CONSTRAINT orders_clean_up_comes_last CHECK (cleaned_up_at IS NULL OR ended_at IS NOT NULL)
);
CREATE UNIQUE INDEX orders_one_open_per_domain ON orders (domain_id)
    WHERE origin = 'challenge' AND state NOT IN ('issued', 'failed', 'cancelled');
CREATE UNIQUE INDEX orders_one_open_per_certificate ON orders (certificate_id)
    WHERE state NOT IN ('issued', 'failed', 'cancelled');
CREATE UNIQUE INDEX orders_acme_url_open_key ON orders (acme_url)
    WHERE state NOT IN ('issued', 'failed', 'cancelled');
CREATE INDEX orders_acme_url ON orders (acme_url);
CREATE INDEX orders_of_domain ON orders (domain_id, id DESC);
CREATE INDEX orders_not_cleaned_up ON orders (id) WHERE cleaned_up_at IS NULL;

COMMENT ON TABLE orders IS 'Our orders. The CA''s order is acme_url; the state names what is already true and stored.';
COMMENT ON COLUMN orders.id IS 'Internal key, and the payload of the order''s job.';
COMMENT ON COLUMN orders.public_id IS 'order_id of the API.';
COMMENT ON COLUMN orders.domain_id IS 'The domain it is for.';
COMMENT ON COLUMN orders.certificate_id IS 'The certificate row it fills; key and CSR live there.';
COMMENT ON COLUMN orders.origin IS 'What asked for it: challenge = POST /domains/{id}/issue-certificate.';
COMMENT ON COLUMN orders.state IS 'See ARCHITECTURE.md, the walk of one order.';
COMMENT ON COLUMN orders.revision IS 'Grows with every change; a step commits only on the revision it loaded.';
COMMENT ON COLUMN orders.directory IS 'ACME directory the order was placed at.';
COMMENT ON COLUMN orders.acme_url IS 'The CA''s order URL; unique among open orders, because a CA may hand out the same order twice.';
COMMENT ON COLUMN orders.place_by IS 'While a caller waits: still accepted after this time, the order is cancelled by whoever meets it.';
COMMENT ON COLUMN orders.placed_at IS 'When the CA''s order was stored.';
COMMENT ON COLUMN orders.deadline_at IS 'Until when the TXT record may appear; only a look-up begun at or after it fails the order.';
COMMENT ON COLUMN orders.seen_at IS 'When a look-up first saw the TXT value.';
COMMENT ON COLUMN orders.ended_at IS 'When it became issued, failed or cancelled.';
COMMENT ON COLUMN orders.cleaned_up_at IS 'When nothing was left to tidy at the CA or in DNS.';
COMMENT ON COLUMN orders.problem IS 'Why it failed or was cancelled: {code, detail, acme}.';
COMMENT ON COLUMN orders.created_at IS 'When it was accepted.';
COMMENT ON COLUMN orders.updated_at IS 'Last change of the row; polls do not change it.';

CREATE TABLE authorizations (
    order_id      bigint      NOT NULL REFERENCES orders ON DELETE CASCADE,
    domain_id     bigint      NOT NULL REFERENCES domains,
    identifier    text        NOT NULL,
    wildcard      boolean     NOT NULL DEFAULT false,
    url           text        NOT NULL,
    challenge_url text        NOT NULL,
    token         text        NOT NULL,
    txt_value     text        NOT NULL CHECK (txt_value ~ '^[A-Za-z0-9_-]{43}$'),
    proved_at     timestamptz,
    PRIMARY KEY (order_id, identifier, wildcard)
);
CREATE INDEX authorizations_proved ON authorizations (domain_id, identifier) WHERE proved_at IS NOT NULL;

COMMENT ON TABLE authorizations IS 'One per name of an order: the CA''s authorization and its dns-01 challenge.';
COMMENT ON COLUMN authorizations.order_id IS 'The order.';
COMMENT ON COLUMN authorizations.domain_id IS 'The domain row, so that proof never crosses from one registration to another.';
COMMENT ON COLUMN authorizations.identifier IS 'DNS name without "*.".';
COMMENT ON COLUMN authorizations.wildcard IS 'Whether it is for "*." in front of the identifier.';
COMMENT ON COLUMN authorizations.url IS 'Authorization URL at the CA.';
COMMENT ON COLUMN authorizations.challenge_url IS 'URL of its dns-01 challenge.';
COMMENT ON COLUMN authorizations.token IS 'Token of the challenge (public: its digest is what DNS shows).';
COMMENT ON COLUMN authorizations.txt_value IS 'What the TXT record must hold (RFC 8555 section 8.4).';
COMMENT ON COLUMN authorizations.proved_at IS 'When this domain row passed dns-01 here, or by an earlier proof of its own that the CA still honours.';

CREATE TABLE order_events (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id bigint      NOT NULL REFERENCES orders ON DELETE CASCADE,
    at       timestamptz NOT NULL DEFAULT now(),
    event    text        NOT NULL,
    state    text        NOT NULL,
    actor    text        NOT NULL,
    detail   jsonb
);
CREATE INDEX order_events_of_order ON order_events (order_id, id);

COMMENT ON TABLE order_events IS 'What happened to an order, for people: one row per committed event.';
COMMENT ON COLUMN order_events.id IS 'Internal key; the order of events.';
COMMENT ON COLUMN order_events.order_id IS 'The order.';
COMMENT ON COLUMN order_events.at IS 'When it was committed (start of the transaction).';
COMMENT ON COLUMN order_events.event IS 'The event''s name.';
COMMENT ON COLUMN order_events.state IS 'The order''s state after it.';
COMMENT ON COLUMN order_events.actor IS 'Who: a worker''s name, or api.';
COMMENT ON COLUMN order_events.detail IS 'What a person wants to know about it; never a secret.';

CREATE TABLE acme_accounts (
    directory       text        PRIMARY KEY,
    private_key_pem text        NOT NULL,
    kid             text,
    held_until      timestamptz,
    held_because    text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    registered_at   timestamptz,
    CONSTRAINT acme_accounts_registered_has_time CHECK ((kid IS NULL) = (registered_at IS NULL))
);
COMMENT ON TABLE acme_accounts IS 'One ACME account per directory, shared by every worker and every domain.';
COMMENT ON COLUMN acme_accounts.directory IS 'URL of the ACME directory.';
COMMENT ON COLUMN acme_accounts.private_key_pem IS 'RSA account key, PKCS#8 PEM; stored before the account is registered with it.';
COMMENT ON COLUMN acme_accounts.kid IS 'Account URL (RFC 8555 section 7.3), once registered.';
COMMENT ON COLUMN acme_accounts.held_until IS 'Rate limit of the CA: no worker calls it for this account before then.';
COMMENT ON COLUMN acme_accounts.held_because IS 'What the CA said when it asked for that.';
COMMENT ON COLUMN acme_accounts.created_at IS 'When the key was made or imported.';
COMMENT ON COLUMN acme_accounts.registered_at IS 'When the CA''s account URL was stored.';

CREATE TABLE jobs (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text        NOT NULL CHECK (kind IN ('poll-challenge', 'sweep')),
    order_id      bigint      UNIQUE REFERENCES orders,
    lane          smallint    NOT NULL CHECK (lane BETWEEN 0 AND 2),
    due_at        timestamptz NOT NULL DEFAULT now(),
    lease         bigint      NOT NULL DEFAULT 0,
    leased_by     text,
    attempts      integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_result   jsonb,
    parked_at     timestamptz,
    woken         boolean     NOT NULL DEFAULT false,
    trace_context jsonb,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT jobs_order_iff_poll_challenge CHECK ((kind = 'poll-challenge') = (order_id IS NOT NULL)),
    CONSTRAINT jobs_parked_is_not_leased CHECK (parked_at IS NULL OR leased_by IS NULL)
) WITH (fillfactor = 70);
CREATE INDEX jobs_due ON jobs (lane, due_at) WHERE parked_at IS NULL;
CREATE UNIQUE INDEX jobs_scheduled_once ON jobs (kind) WHERE order_id IS NULL;

COMMENT ON TABLE jobs IS 'The queue: live and parked work only. A finished row is deleted; history is in order_events.';
COMMENT ON COLUMN jobs.id IS 'Internal key; half of the fence.';
COMMENT ON COLUMN jobs.kind IS 'poll-challenge: one order, for its whole life. Others are scheduled, one row each in the fleet.';
COMMENT ON COLUMN jobs.order_id IS 'The order to advance.';
COMMENT ON COLUMN jobs.lane IS '0 somebody waits, 1 polls and later steps, 2 housekeeping.';
COMMENT ON COLUMN jobs.due_at IS 'When it may be claimed; while leased, when the lease ends.';
COMMENT ON COLUMN jobs.lease IS 'Grows with every claim; every outcome names the lease it holds, so a late one matches nothing.';
COMMENT ON COLUMN jobs.leased_by IS 'The worker that runs it; still set on a claimed row means that worker was lost.';
COMMENT ON COLUMN jobs.attempts IS 'Counted failures since the order last advanced.';
COMMENT ON COLUMN jobs.last_result IS 'What the last run saw or why it ended: {at, result, ...}.';
COMMENT ON COLUMN jobs.parked_at IS 'Stopped for a person.';
COMMENT ON COLUMN jobs.woken IS 'Somebody wants it looked at now; set by others while it is leased.';
COMMENT ON COLUMN jobs.trace_context IS 'The request that enqueued it: {request_id}.';
COMMENT ON COLUMN jobs.created_at IS 'When it was enqueued.';

INSERT INTO jobs (kind, lane) VALUES ('sweep', 2);
