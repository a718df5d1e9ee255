-- Campaigns, their phases, the ledger of chunks, names, DNS results and events.
-- Which service writes which table: services/schema/__init__.py.

CREATE TABLE campaigns (
    id uuid PRIMARY KEY,
    -- Stands for the campaign inside the tables: 4 bytes in every row instead of 16.
    no integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    name text NOT NULL,
    mode text NOT NULL CHECK (mode IN ('STEP_BY_STEP', 'FULL_SEQUENCE')),
    initial_phase smallint NOT NULL,
    final_phase smallint NOT NULL,
    -- domainflow.campaign.v1.CampaignConfiguration, as protobuf bytes.
    configuration bytea NOT NULL,
    -- Names stored; grows with the chunks of the generation phase.
    name_count bigint NOT NULL DEFAULT 0,
    -- Revision of the newest event. Whoever appends an event holds this row's lock.
    revision bigint NOT NULL DEFAULT 0,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE phases (
    campaign_no integer NOT NULL REFERENCES campaigns (no) ON DELETE CASCADE,
    -- Number of domainflow.campaign.v1.Phase.
    phase smallint NOT NULL CHECK (phase BETWEEN 1 AND 5),
    status text NOT NULL CHECK (status IN (
        'NOT_STARTED', 'CONFIGURED', 'RUNNING', 'PAUSED', 'COMPLETED', 'FAILED', 'SKIPPED', 'CANCELLED')),
    run integer NOT NULL DEFAULT 0,
    -- The run whose results are shown; 0 while there is none. Lags behind `run` while a rerun is on its way.
    result_run integer NOT NULL DEFAULT 0,
    -- Names this run has to settle.
    name_count bigint NOT NULL DEFAULT 0,
    -- True once every chunk of this run stands in the ledger.
    planned boolean NOT NULL DEFAULT false,
    start_time timestamptz,
    end_time timestamptz,
    failure text NOT NULL DEFAULT '',
    PRIMARY KEY (campaign_no, phase)
);
CREATE INDEX phases_running ON phases (status) WHERE status = 'RUNNING';

-- The ledger: every name of a run belongs to exactly one chunk, and a chunk is settled exactly once.
CREATE TABLE chunks (
    campaign_no integer NOT NULL,
    phase smallint NOT NULL,
    run integer NOT NULL,
    first_position integer NOT NULL,
    name_count integer NOT NULL CHECK (name_count > 0),
    -- ready: to be handed out. queued: a task for it was published, or a worker has claimed it. done: settled.
    state text NOT NULL CHECK (state IN ('ready', 'queued', 'done')),
    -- Claims so far. The claim's number is the fence: only its newest holder may settle.
    attempt integer NOT NULL DEFAULT 0,
    worker text,
    -- A queued chunk whose lease is over is handed out again.
    lease_expire_time timestamptz,
    -- After an attempt that failed: not handed out before.
    ready_time timestamptz,
    claim_time timestamptz,
    done_time timestamptz,
    -- Names by outcome: entry i counts outcome number i (1-based, as in the phase's verdict enum).
    outcome_counts integer[],
    content_sha256 bytea,
    PRIMARY KEY (campaign_no, phase, run, first_position)
);
CREATE INDEX chunks_open ON chunks (campaign_no, phase, run, state, first_position) WHERE state <> 'done';
CREATE INDEX chunks_leased ON chunks (lease_expire_time) WHERE state = 'queued';

CREATE TABLE events (
    campaign_no integer NOT NULL,
    revision bigint NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    -- domainflow.campaign.v1.Event without campaign_id, revision and create_time, as protobuf bytes.
    body bytea NOT NULL,
    PRIMARY KEY (campaign_no, revision)
);

-- No unique index on name: a pattern cannot repeat a name and uploads are de-duplicated on the way in
-- (docs/decisions.md). "C" collation: names are ASCII, and bytewise comparison is what DNS means.
CREATE TABLE domains (
    campaign_no integer NOT NULL,
    position integer NOT NULL,
    name text COLLATE "C" NOT NULL,
    PRIMARY KEY (campaign_no, position)
) PARTITION BY HASH (campaign_no);

CREATE TABLE dns_results (
    campaign_no integer NOT NULL,
    run integer NOT NULL,
    position integer NOT NULL,
    -- Number of domainflow.validation.v1.DnsVerdict.
    verdict smallint NOT NULL,
    -- Response code of the deciding answer; -1 when no answer came.
    rcode smallint NOT NULL,
    attempt_count smallint NOT NULL,
    tcp boolean NOT NULL,
    duration_us integer NOT NULL,
    -- Microseconds since 1970 UTC: the driver's timestamp codec costs more than the rest of the row.
    check_time_us bigint NOT NULL,
    ttl integer,
    -- "address:port"; null when no answer came.
    resolver text,
    -- Comma-separated; null without any. Text, not text[]: half the size and a third of the encoding time.
    addresses text,
    cname_chain text,
    PRIMARY KEY (campaign_no, run, position)
) PARTITION BY HASH (campaign_no);

DO $$
BEGIN
    FOR i IN 0..15 LOOP
        EXECUTE format('CREATE TABLE domains_%s PARTITION OF domains FOR VALUES WITH (MODULUS 16, REMAINDER %s)', i, i);
        EXECUTE format('CREATE TABLE dns_results_%s PARTITION OF dns_results FOR VALUES WITH (MODULUS 16, REMAINDER %s)
            WITH (autovacuum_vacuum_insert_scale_factor = 0.05)', i, i);
    END LOOP;
END $$;
-- Any verdict can be the rare one that somebody pages through.
CREATE INDEX dns_results_by_verdict ON dns_results (campaign_no, run, verdict, position);

CREATE TABLE uploads (
    campaign_no integer PRIMARY KEY REFERENCES campaigns (no) ON DELETE CASCADE,
    upload_id uuid NOT NULL,
    next_offset bigint NOT NULL DEFAULT 0,
    accepted_count bigint NOT NULL DEFAULT 0,
    duplicate_count bigint NOT NULL DEFAULT 0,
    rejected_count bigint NOT NULL DEFAULT 0,
    finished boolean NOT NULL DEFAULT false
);

-- Names of the open upload, to find repeated lines whatever the size of the list. Emptied when it is finished.
CREATE TABLE upload_names (
    campaign_no integer NOT NULL,
    name text COLLATE "C" NOT NULL,
    PRIMARY KEY (campaign_no, name)
);

-- Answers to mutations that carried a request_id.
CREATE TABLE requests (
    request_id uuid PRIMARY KEY,
    method text NOT NULL,
    body_sha256 bytea NOT NULL,
    response bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX requests_create_time ON requests (create_time);

CREATE TABLE workers (
    worker_id text PRIMARY KEY,
    pool text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    start_time timestamptz NOT NULL DEFAULT now(),
    report_time timestamptz NOT NULL DEFAULT now(),
    chunks_in_flight integer NOT NULL DEFAULT 0,
    settled_count bigint NOT NULL DEFAULT 0
);
