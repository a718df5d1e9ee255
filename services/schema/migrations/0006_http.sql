-- HTTP validation, analysis and leads: chunks of some names only, pages, and what is asked and looked for.

-- Whoever settles locks phases, then chunks; whoever holds a claim locks chunks and reads phases (see 0005_query.sql).
LOCK TABLE phases IN EXCLUSIVE MODE;
LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE;
SET LOCAL lock_timeout = '500ms';
LOCK TABLE phases IN ACCESS EXCLUSIVE MODE;

-- A later phase works on what an earlier one found, so its chunks are sparse: a chunk has those positions from first_position to
-- last_position that candidate_positions gives, name_count of them; first_position is one of these. Chunks of a run are disjoint and in order.
ALTER TABLE chunks
    -- Null: the chunk has every position from first_position on.
    ADD last_position integer;
ALTER TABLE phases
    -- Run of the phase that this run rests on: of DNS for HTTP, of HTTP for analysis and leads; 0: that phase was left out. Set when the first
    -- chunk is planned; null before, and for generation and DNS.
    ADD source_run integer;

-- During an upgrade services of the version before run beside the new ones. They plan HTTP, too, with chunks of every position, which would have
-- names of sparse ones: to them it is as if somebody else were planning, and they leave it.
CREATE FUNCTION refuse_full_chunk() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE unique_violation USING MESSAGE = format('chunks of phase %s have some positions only', NEW.phase);
END
$$;
CREATE TRIGGER refuse_full_chunk BEFORE INSERT ON chunks
    FOR EACH ROW WHEN (NEW.phase > 2 AND NEW.last_position IS NULL AND NEW.state = 'ready' AND NEW.attempt = 0)
    EXECUTE FUNCTION refuse_full_chunk();
-- And they begin runs, knowing nothing of source_run: a new run rests on nothing before it is planned.
CREATE FUNCTION forget_source() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.source_run := NULL;
    RETURN NEW;
END
$$;
CREATE TRIGGER forget_source BEFORE UPDATE OF run ON phases
    FOR EACH ROW WHEN (NEW.run <> OLD.run) EXECUTE FUNCTION forget_source();

-- The positions a run of a later phase works on, in order, from p_first to p_last, p_limit of them at most.
--   HTTP: RESOLVED by DNS; every name where DNS was left out. Analysis: HTTP came to OK. Leads: HTTP came to whatever.
CREATE FUNCTION candidate_positions(
    p_campaign integer, p_phase smallint, p_source_run integer, p_first integer, p_last integer, p_limit integer
) RETURNS SETOF integer
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_phase = 3 AND p_source_run = 0 THEN
        RETURN QUERY SELECT d.position FROM domains d
        WHERE d.campaign_no = p_campaign AND d.position BETWEEN p_first AND p_last
        ORDER BY d.position LIMIT p_limit;
    ELSIF p_phase = 3 THEN
        RETURN QUERY SELECT r.position FROM dns_results r
        WHERE r.campaign_no = p_campaign AND r.run = p_source_run AND r.verdict = 1 AND r.position BETWEEN p_first AND p_last
        ORDER BY r.position LIMIT p_limit;
    ELSIF p_phase = 4 THEN
        RETURN QUERY SELECT r.position FROM http_results r
        WHERE r.campaign_no = p_campaign AND r.run = p_source_run AND r.verdict = 1 AND r.position BETWEEN p_first AND p_last
        ORDER BY r.position LIMIT p_limit;
    ELSIF p_phase = 5 THEN
        RETURN QUERY SELECT r.position FROM http_results r
        WHERE r.campaign_no = p_campaign AND r.run = p_source_run AND r.position BETWEEN p_first AND p_last
        ORDER BY r.position LIMIT p_limit;
    ELSE
        RAISE EXCEPTION 'phase % works on every position', p_phase;
    END IF;
END
$$;

-- As before; of a sparse chunk the second half begins at the first of its names.
CREATE OR REPLACE FUNCTION split_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer, p_failure_count integer
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    whole chunks;
    half integer;
    second integer;
BEGIN
    SELECT * INTO whole FROM chunks
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first
      AND state = 'queued' AND attempt = p_attempt AND claim_time IS NOT NULL AND name_count > 1
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    half := whole.name_count / 2;
    IF whole.last_position IS NULL THEN
        second := p_first + half;
    ELSE
        SELECT c.position INTO STRICT second
        FROM phases p, candidate_positions(p_campaign, p_phase, p.source_run, p_first, whole.last_position, half + 1) AS c (position)
        WHERE p.campaign_no = p_campaign AND p.phase = p_phase
        ORDER BY c.position DESC LIMIT 1;
    END IF;
    UPDATE chunks SET name_count = half, state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL,
        ready_time = NULL, failure_count = p_failure_count,
        last_position = CASE WHEN whole.last_position IS NOT NULL THEN second - 1 END
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first;
    INSERT INTO chunks (campaign_no, phase, run, first_position, last_position, name_count, state, attempt, failure_count, lost_count,
        revision)
    VALUES (p_campaign, p_phase, p_run, second, whole.last_position, whole.name_count - half, 'ready', whole.attempt,
        p_failure_count, whole.lost_count, whole.revision);
    RETURN second;
END
$$;

-- As before, for the results of every phase.
CREATE OR REPLACE FUNCTION redrive_dead_letter(
    p_campaign integer, p_phase smallint, p_run integer, p_position integer, p_reason text
) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE dead_letters SET state = 'REDRIVEN', resolve_time = now(), resolve_reason = p_reason
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND position = p_position AND state = 'OPEN';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE chunks SET state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL, ready_time = NULL,
        done_time = NULL, outcome_counts = NULL, content_sha256 = NULL, failure_count = 0
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_position
      AND name_count = 1 AND state = 'done';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the dead letter at position % has no chunk of its own', p_position;
    END IF;
    IF p_phase = 2 THEN
        DELETE FROM dns_results WHERE campaign_no = p_campaign AND run = p_run AND position = p_position;
    ELSIF p_phase = 3 THEN
        DELETE FROM http_results WHERE campaign_no = p_campaign AND run = p_run AND position = p_position;
        DELETE FROM pages WHERE campaign_no = p_campaign AND run = p_run AND position = p_position;
    ELSIF p_phase = 4 THEN
        DELETE FROM page_analyses WHERE campaign_no = p_campaign AND run = p_run AND position = p_position;
        DELETE FROM keyword_hits WHERE campaign_no = p_campaign AND run = p_run AND position = p_position;
    ELSIF p_phase = 5 THEN
        DELETE FROM leads WHERE campaign_no = p_campaign AND run = p_run AND position = p_position;
    END IF;
    RETURN true;
END
$$;

-- What was found on a page when it was fetched: scores and leads are made from it, and made anew, without fetching. One row for each result
-- of HTTP that is OK, of the same run.
CREATE TABLE pages (
    campaign_no integer NOT NULL,
    run integer NOT NULL,
    position integer NOT NULL,
    -- Number of domainflow.validation.v1.PageKind.
    kind smallint NOT NULL,
    -- services/validation/content/features.py.
    features bytea NOT NULL,
    -- Names of rules that hit, the most frequent first, and how often each; null without any.
    keywords text[],
    hit_counts integer[],
    -- Whether the page as a whole is a hit; null where nothing was looked for.
    keyword_match boolean,
    -- domainflow.validation.v1.PageEvidence without kind, as protobuf bytes.
    evidence bytea,
    PRIMARY KEY (campaign_no, run, position)
) PARTITION BY HASH (campaign_no);
DO $$
BEGIN
    FOR i IN 0..15 LOOP
        EXECUTE format('CREATE TABLE pages_%s PARTITION OF pages FOR VALUES WITH (MODULUS 16, REMAINDER %s)
            WITH (autovacuum_vacuum_insert_scale_factor = 0.05)', i, i);
    END LOOP;
END $$;

-- The vector stands with the page. How the score was made stands in scorings.
ALTER TABLE page_analyses
    DROP features,
    -- The outcome: whether the page as a whole is a hit, by the expressions over the keywords.
    ADD with_keyword boolean NOT NULL DEFAULT false,
    ADD scoring smallint NOT NULL DEFAULT 0;
-- leads.contacts has domainflow.validation.v1.Lead with contacts and detail only: contacts of leads, detail of every name.

-- How the scores of a run were made: more than one where the configuration was changed during it.
CREATE TABLE scorings (
    campaign_no integer NOT NULL,
    -- Of the analysis, and of the HTTP phase whose pages were scored.
    run integer NOT NULL,
    scoring smallint NOT NULL,
    source_run integer NOT NULL,
    -- The time that the age of pages was reckoned to, Unix seconds: the same for all pages of it.
    score_time bigint NOT NULL,
    -- domainflow.campaign.v1.AnalysisConfiguration, as protobuf bytes.
    body bytea NOT NULL,
    PRIMARY KEY (campaign_no, run, scoring)
);

-- What callers store under a name. `version` goes up with every change.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['http_personas', 'keyword_sets', 'scoring_profiles', 'proxy_pools'] LOOP
        EXECUTE format('CREATE TABLE %I (
            id uuid PRIMARY KEY,
            name text COLLATE "C" NOT NULL UNIQUE,
            description text NOT NULL,
            body bytea NOT NULL,
            version bigint NOT NULL DEFAULT 1,
            create_time timestamptz NOT NULL DEFAULT now(),
            update_time timestamptz NOT NULL DEFAULT now()
        )', name);
    END LOOP;
END $$;
COMMENT ON COLUMN http_personas.body IS 'domainflow.validation.v1.HttpSettings, as protobuf bytes';
COMMENT ON COLUMN keyword_sets.body IS 'domainflow.validation.v1.KeywordSet with rules and expression only, as protobuf bytes';
COMMENT ON COLUMN scoring_profiles.body IS 'domainflow.validation.v1.ScoringSettings, as protobuf bytes';
COMMENT ON COLUMN proxy_pools.body IS 'domainflow.validation.v1.ProxyPool with strategy and health_rules only, as protobuf bytes';
-- Every version there ever was: campaigns name the one they were configured with, and results are explained by it.
CREATE TABLE keyword_set_versions (
    id uuid NOT NULL,
    version bigint NOT NULL,
    name text NOT NULL,
    body bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, version)
);
CREATE TABLE scoring_profile_versions (
    id uuid NOT NULL,
    version bigint NOT NULL,
    name text NOT NULL,
    body bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, version)
);

CREATE TABLE proxies (
    id uuid PRIMARY KEY,
    scheme text NOT NULL CHECK (scheme IN ('http', 'https', 'socks5')),
    host text COLLATE "C" NOT NULL,
    port integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
    username text COLLATE "C" NOT NULL,
    -- Sealed for this row alone (services/chassis/secrets.py); null without one.
    password bytea,
    weight integer NOT NULL DEFAULT 1,
    disabled boolean NOT NULL DEFAULT false,
    description text NOT NULL DEFAULT '',
    version bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    UNIQUE (scheme, host, port, username)
);
CREATE TABLE proxy_pool_members (
    proxy_pool_id uuid NOT NULL REFERENCES proxy_pools (id) ON DELETE CASCADE,
    proxy_id uuid NOT NULL REFERENCES proxies (id) ON DELETE CASCADE,
    -- Order within the pool.
    place integer NOT NULL,
    PRIMARY KEY (proxy_pool_id, proxy_id)
);
CREATE INDEX proxy_pool_members_of_proxy ON proxy_pool_members (proxy_id);
-- What each process knows of each proxy it uses; replaced every few seconds, removed with its process or after a minute.
CREATE UNLOGGED TABLE proxy_reports (
    worker_id text NOT NULL,
    proxy_id uuid NOT NULL,
    proxy_pool_id uuid NOT NULL,
    report_time timestamptz NOT NULL DEFAULT now(),
    -- domainflow.validation.v1.ProxyStatus without report_time, as protobuf bytes.
    body bytea NOT NULL,
    PRIMARY KEY (worker_id, proxy_pool_id, proxy_id)
);
CREATE INDEX proxy_reports_of_proxy ON proxy_reports (proxy_id);

CREATE TABLE suppressions (
    -- In its normal form.
    entry text COLLATE "C" PRIMARY KEY,
    -- Number of domainflow.validation.v1.SuppressionScope: 1 or 2.
    scope smallint NOT NULL,
    reason text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
