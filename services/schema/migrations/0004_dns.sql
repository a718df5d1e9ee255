-- DNS validation with evidence, personas and report cards.

ALTER TABLE dns_results
    -- Zone whose SOA spoke for a negative answer; null without one.
    ADD authority text,
    -- Number of domainflow.validation.v1.DnsAgreement; null when nobody else was asked.
    ADD agreement smallint,
    -- Of the registrable domain; null while unknown.
    ADD registered boolean,
    ADD delegated boolean,
    -- domainflow.validation.v1.DnsEvidence, as protobuf bytes; null where the columns say all there is.
    ADD evidence bytea;

CREATE TABLE dns_personas (
    id uuid PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    description text NOT NULL,
    -- domainflow.validation.v1.DnsSettings, as protobuf bytes.
    settings bytea NOT NULL,
    -- Goes up with every change.
    version bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now()
);

-- Answers to mutations of the validation service by request id (AIP-155), kept for a day.
CREATE TABLE validation_requests (
    request_id uuid PRIMARY KEY,
    method text NOT NULL,
    body_sha256 bytea NOT NULL,
    response bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX validation_requests_create_time ON validation_requests (create_time);

-- What each process knows of each resolver it uses; replaced every few seconds, removed with its process or after a minute.
CREATE UNLOGGED TABLE resolver_reports (
    worker_id text NOT NULL,
    resolver text NOT NULL,
    score real NOT NULL,
    report_time timestamptz NOT NULL DEFAULT now(),
    -- domainflow.validation.v1.ResolverReport without report_time, as protobuf bytes.
    body bytea NOT NULL,
    PRIMARY KEY (worker_id, resolver)
);
CREATE INDEX resolver_reports_by_score ON resolver_reports (score, resolver, worker_id);
