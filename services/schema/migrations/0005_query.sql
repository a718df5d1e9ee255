-- Reads at any size: counters kept with the ledger, its order of settlement, results of the later phases, derived copies, and care.

-- Whoever settles locks phases, then chunks; whoever holds a claim locks chunks and reads phases. In this order neither is met half-way: the
-- first wait lets those who settle finish, the second those who hold, and readers in between make the third give up (and the whole begin
-- anew) before PostgreSQL takes anybody for deadlocked, which it looks for after 1 s.
LOCK TABLE phases IN EXCLUSIVE MODE;
LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE;
SET LOCAL lock_timeout = '500ms';
LOCK TABLE phases IN ACCESS EXCLUSIVE MODE;

ALTER TABLE chunks
    -- Revision of the campaign at which the outcomes were stored or taken back: commit order. Null until then.
    ADD revision bigint,
    -- Outcomes by top-level domain, {"com": {"1": 40, "2": 3}}: outcome number -> names. Null: not counted yet (services/query/maintenance).
    ADD tld_counts jsonb;
-- What is older has no revision of its own: it gets one by time, below the newest, different for each chunk.
UPDATE chunks c SET revision = o.revision FROM (
    SELECT campaign_no, phase, run, first_position,
        row_number() OVER (PARTITION BY campaign_no ORDER BY done_time, phase, run, first_position) AS revision
    FROM chunks WHERE outcome_counts IS NOT NULL
) o
WHERE c.campaign_no = o.campaign_no AND c.phase = o.phase AND c.run = o.run AND c.first_position = o.first_position;
CREATE INDEX chunks_by_revision ON chunks (campaign_no, phase, run, revision, first_position) WHERE revision IS NOT NULL;
CREATE INDEX chunks_without_tlds ON chunks (campaign_no, phase, run, first_position)
    WHERE outcome_counts IS NOT NULL AND tld_counts IS NULL;

ALTER TABLE phases
    -- Revision of the campaign from which on the results of result_run are the ones that are shown.
    ADD shown_revision bigint NOT NULL DEFAULT 0;
-- The revisions above are below the true ones. Whoever asks what changed since an older one is told everything: too much, never too little.
UPDATE phases p SET shown_revision = k.revision FROM campaigns k WHERE k.no = p.campaign_no AND p.result_run > 0;

-- Sums over the chunks of a run. One row, whatever the size: reads are O(1).
CREATE TABLE ledger_totals (
    campaign_no integer NOT NULL,
    phase smallint NOT NULL,
    run integer NOT NULL,
    settled_count bigint NOT NULL DEFAULT 0,
    -- Names by outcome, as in chunks.
    outcome_counts bigint[] NOT NULL DEFAULT '{}',
    -- Revision of the last change.
    revision bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (campaign_no, phase, run)
) WITH (fillfactor = 50);
CREATE TABLE tld_totals (
    campaign_no integer NOT NULL,
    phase smallint NOT NULL,
    run integer NOT NULL,
    tld text COLLATE "C" NOT NULL,
    settled_count bigint NOT NULL DEFAULT 0,
    outcome_counts bigint[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (campaign_no, phase, run, tld)
) WITH (fillfactor = 50);

-- The entries of two arrays added up; the shorter one counts as if filled with zeros.
CREATE FUNCTION added(a bigint[], b bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY i), '{}')
    FROM unnest(a, b) WITH ORDINALITY AS u (x, y, i)
$$;
CREATE FUNCTION negated(a bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(-x ORDER BY i), '{}') FROM unnest(a) WITH ORDINALITY AS u (x, i)
$$;
-- {"1": 40, "3": 2} as an array: entry i is outcome i.
CREATE FUNCTION outcome_array(counts jsonb) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(coalesce((counts ->> i::text)::bigint, 0) ORDER BY i), '{}')
    FROM generate_series(1, (SELECT coalesce(max(k::int), 0) FROM jsonb_object_keys(counts) AS k)) AS i
$$;

-- Changes of the totals that one transaction has made so far, where it has changed several chunks: summed up and removed by its last one.
-- Nobody sees a row of somebody else's.
CREATE UNLOGGED TABLE uncounted (
    campaign_no integer NOT NULL,
    phase smallint NOT NULL,
    run integer NOT NULL,
    outcome_counts bigint[],
    tld_counts jsonb,
    -- Of tld_counts: 1 or -1.
    sign integer
);

-- Keeps the totals equal to the ledger, whoever changes it and how. Deferred to the commit: by then the transaction has appended its event, so it
-- holds the campaign's row and nobody else changes these totals, and the campaign's revision is that of the event.
-- Each of many versions of a row that one transaction makes is looked at again for the next one: 16,000 chunks taken back at once would take
-- 21 s. So announce_chunk counts how many changes are to come, and what they sum up to is added once.
CREATE FUNCTION count_chunk() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    to_come integer := coalesce(nullif(current_setting('domainflow.uncounted', true), ''), '1')::integer - 1;
    several boolean := to_come > 0 OR coalesce(current_setting('domainflow.several', true), '') = 'yes';
    now_at bigint;
    counts bigint[] := NEW.outcome_counts::bigint[];
    lost bigint[];
    lost_tlds jsonb;
BEGIN
    PERFORM set_config('domainflow.uncounted', to_come::text, true);
    IF TG_OP = 'UPDATE' THEN
        lost := OLD.outcome_counts::bigint[];
        lost_tlds := OLD.tld_counts;
    END IF;
    -- Locked already where an event was appended; whoever forgot to still takes turns.
    SELECT revision INTO now_at FROM campaigns WHERE no = NEW.campaign_no FOR NO KEY UPDATE;
    IF counts IS DISTINCT FROM lost THEN
        IF lost IS NOT NULL THEN
            counts := added(coalesce(counts, '{}'), negated(lost));
        END IF;
        IF several THEN
            INSERT INTO uncounted (campaign_no, phase, run, outcome_counts) VALUES (NEW.campaign_no, NEW.phase, NEW.run, counts);
        ELSE
            PERFORM count_outcomes(NEW.campaign_no, NEW.phase, NEW.run, counts, now_at);
        END IF;
        UPDATE chunks SET revision = now_at
        WHERE campaign_no = NEW.campaign_no AND phase = NEW.phase AND run = NEW.run AND first_position = NEW.first_position;
    END IF;
    IF NEW.tld_counts IS DISTINCT FROM lost_tlds THEN
        IF several THEN
            INSERT INTO uncounted (campaign_no, phase, run, tld_counts, sign)
            SELECT NEW.campaign_no, NEW.phase, NEW.run, v.tlds, v.sign FROM (VALUES (lost_tlds, -1), (NEW.tld_counts, 1)) AS v (tlds, sign)
            WHERE v.tlds IS NOT NULL;
        ELSE
            IF lost_tlds IS NOT NULL THEN
                PERFORM count_tlds(NEW.campaign_no, NEW.phase, NEW.run, lost_tlds, -1);
            END IF;
            IF NEW.tld_counts IS NOT NULL THEN
                PERFORM count_tlds(NEW.campaign_no, NEW.phase, NEW.run, NEW.tld_counts, 1);
            END IF;
        END IF;
    END IF;
    IF several AND to_come = 0 THEN
        PERFORM count_uncounted();
    END IF;
    PERFORM set_config('domainflow.several', CASE WHEN to_come > 0 THEN 'yes' ELSE 'no' END, true);
    RETURN NULL;
END
$$;
-- Says that one more call of count_chunk is to come: at once, not at the commit. Forgotten together with the change it goes with.
CREATE FUNCTION announce_chunk() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('domainflow.uncounted',
        (coalesce(nullif(current_setting('domainflow.uncounted', true), ''), '0')::integer + 1)::text, true);
    RETURN NULL;
END
$$;
-- Adds outcomes to the totals of a run.
CREATE FUNCTION count_outcomes(p_campaign integer, p_phase smallint, p_run integer, p_counts bigint[], p_revision bigint) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO ledger_totals AS t (campaign_no, phase, run, settled_count, outcome_counts, revision)
    VALUES (p_campaign, p_phase, p_run, (SELECT coalesce(sum(n), 0) FROM unnest(p_counts) AS n), p_counts, p_revision)
    ON CONFLICT (campaign_no, phase, run) DO UPDATE
    SET settled_count = t.settled_count + excluded.settled_count,
        outcome_counts = added(t.outcome_counts, excluded.outcome_counts), revision = excluded.revision
$$;
-- Adds all that this transaction has put into `uncounted`.
CREATE FUNCTION count_uncounted() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT s.campaign_no, s.phase, s.run, k.revision, array_agg(s.total ORDER BY s.i) AS counts
        FROM (
            SELECT u.campaign_no, u.phase, u.run, o.i, sum(o.n)::bigint AS total
            FROM uncounted u, unnest(u.outcome_counts) WITH ORDINALITY AS o (n, i) GROUP BY 1, 2, 3, 4
        ) s JOIN campaigns k ON k.no = s.campaign_no
        GROUP BY s.campaign_no, s.phase, s.run, k.revision ORDER BY 1, 2, 3
    LOOP
        PERFORM count_outcomes(one.campaign_no, one.phase, one.run, one.counts, one.revision);
    END LOOP;
    FOR one IN
        SELECT s.campaign_no, s.phase, s.run, jsonb_object_agg(s.tld, s.counts) AS counts
        FROM (
            SELECT c.campaign_no, c.phase, c.run, c.tld, jsonb_object_agg(c.outcome, c.total) AS counts
            FROM (
                SELECT u.campaign_no, u.phase, u.run, t.key AS tld, o.key AS outcome, sum(u.sign * o.value::bigint)::bigint AS total
                FROM uncounted u, jsonb_each(u.tld_counts) AS t, jsonb_each_text(t.value) AS o GROUP BY 1, 2, 3, 4, 5
            ) c GROUP BY 1, 2, 3, 4
        ) s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    LOOP
        PERFORM count_tlds(one.campaign_no, one.phase, one.run, one.counts, 1);
    END LOOP;
    DELETE FROM uncounted;
END
$$;
-- Adds outcomes by top-level domain to the totals, or takes them away: p_sign is 1 or -1. One statement however many there are, its
-- sums without functions of ours: a list may have 1,000 top-level domains a chunk (12 ms; a loop over them took 70).
CREATE FUNCTION count_tlds(p_campaign integer, p_phase smallint, p_run integer, p_counts jsonb, p_sign integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    width integer;
BEGIN
    SELECT max(o::integer) INTO width FROM jsonb_each(p_counts) AS t (tld, counts), jsonb_object_keys(t.counts) AS o;
    INSERT INTO tld_totals AS t (campaign_no, phase, run, tld, settled_count, outcome_counts)
    SELECT p_campaign, p_phase, p_run, tld, (SELECT sum(n) FROM unnest(made.counts) AS n), made.counts
    FROM (
        SELECT tld, ARRAY(
            SELECT p_sign * coalesce((c.counts ->> i::text)::bigint, 0) FROM generate_series(1, width) AS i ORDER BY i) AS counts
        FROM jsonb_each(p_counts) AS c (tld, counts) ORDER BY tld COLLATE "C"
        OFFSET 0
    ) made
    ON CONFLICT (campaign_no, phase, run, tld) DO UPDATE
    SET settled_count = t.settled_count + excluded.settled_count,
        outcome_counts = ARRAY(
            SELECT coalesce(x, 0) + coalesce(y, 0)
            FROM unnest(t.outcome_counts, excluded.outcome_counts) WITH ORDINALITY AS u (x, y, i) ORDER BY i);
END
$$;
-- By their names, these two come before those they announce, should anybody not defer them.
CREATE TRIGGER announce_new_chunk AFTER INSERT ON chunks
    FOR EACH ROW WHEN (NEW.outcome_counts IS NOT NULL) EXECUTE FUNCTION announce_chunk();
CREATE TRIGGER announce_changed_chunk AFTER UPDATE OF outcome_counts, tld_counts ON chunks
    FOR EACH ROW WHEN (OLD.outcome_counts IS DISTINCT FROM NEW.outcome_counts OR OLD.tld_counts IS DISTINCT FROM NEW.tld_counts)
    EXECUTE FUNCTION announce_chunk();
CREATE CONSTRAINT TRIGGER count_new_chunk AFTER INSERT ON chunks DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.outcome_counts IS NOT NULL) EXECUTE FUNCTION count_chunk();
CREATE CONSTRAINT TRIGGER count_changed_chunk AFTER UPDATE OF outcome_counts, tld_counts ON chunks DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.outcome_counts IS DISTINCT FROM NEW.outcome_counts OR OLD.tld_counts IS DISTINCT FROM NEW.tld_counts)
    EXECUTE FUNCTION count_chunk();
INSERT INTO ledger_totals (campaign_no, phase, run, settled_count, outcome_counts, revision)
SELECT campaign_no, phase, run, sum(total), array_agg(total ORDER BY i), max(revision)
FROM (
    SELECT campaign_no, phase, run, i, sum(n) AS total, max(revision) AS revision
    FROM chunks, unnest(outcome_counts) WITH ORDINALITY AS u (n, i)
    WHERE outcome_counts IS NOT NULL
    GROUP BY campaign_no, phase, run, i
) s
GROUP BY campaign_no, phase, run;

-- Remembers from when on a run's results are the ones that are shown.
CREATE FUNCTION note_shown_run() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE phases SET shown_revision = (SELECT revision FROM campaigns WHERE no = NEW.campaign_no FOR NO KEY UPDATE)
    WHERE campaign_no = NEW.campaign_no AND phase = NEW.phase;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER note_shown_run AFTER UPDATE OF result_run ON phases DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.result_run IS DISTINCT FROM NEW.result_run) EXECUTE FUNCTION note_shown_run();

-- As before, with the outcomes by top-level domain; the function without them stays for workers that are older.
CREATE FUNCTION settle_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer,
    p_outcome_counts integer[], p_content_sha256 bytea, p_tld_counts jsonb
) RETURNS TABLE (elapsed interval)
LANGUAGE plpgsql AS $$
DECLARE
    names integer;
    took interval;
BEGIN
    PERFORM share_turn(p_campaign);
    PERFORM FROM phases
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND status = 'RUNNING'
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE chunks c
    SET state = 'done', done_time = now(), lease_expire_time = NULL,
        outcome_counts = p_outcome_counts, content_sha256 = p_content_sha256, tld_counts = p_tld_counts
    WHERE c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run AND c.first_position = p_first
      AND c.state = 'queued' AND c.attempt = p_attempt AND c.claim_time IS NOT NULL
    RETURNING c.name_count, now() - c.claim_time INTO names, took;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF (SELECT sum(n) FROM unnest(p_outcome_counts) AS n) IS DISTINCT FROM names THEN
        RAISE EXCEPTION 'outcomes % are not one for every name of the chunk', p_outcome_counts;
    END IF;
    RETURN QUERY SELECT took;
END
$$;
CREATE OR REPLACE FUNCTION settle_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer,
    p_outcome_counts integer[], p_content_sha256 bytea
) RETURNS TABLE (elapsed interval)
LANGUAGE sql AS $$
    SELECT * FROM settle_chunk(p_campaign, p_phase, p_run, p_first, p_attempt, p_outcome_counts, p_content_sha256, NULL)
$$;
-- A chunk whose outcomes are taken back has none by top-level domain either.
CREATE FUNCTION forget_tlds() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.tld_counts := NULL;
    RETURN NEW;
END
$$;
CREATE TRIGGER forget_tlds BEFORE UPDATE OF outcome_counts ON chunks
    FOR EACH ROW WHEN (NEW.outcome_counts IS NULL AND OLD.tld_counts IS NOT NULL) EXECUTE FUNCTION forget_tlds();

-- As before; but of a chunk whose outcomes were taken back, the second half was taken back too.
CREATE OR REPLACE FUNCTION split_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer, p_failure_count integer
) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    whole chunks;
    half integer;
BEGIN
    SELECT * INTO whole FROM chunks
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first
      AND state = 'queued' AND attempt = p_attempt AND claim_time IS NOT NULL AND name_count > 1
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    half := whole.name_count / 2;
    UPDATE chunks SET name_count = half, state = 'ready', worker = NULL, claim_time = NULL, lease_expire_time = NULL,
        ready_time = NULL, failure_count = p_failure_count
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first;
    INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state, attempt, failure_count, lost_count, revision)
    VALUES (p_campaign, p_phase, p_run, p_first + half, whole.name_count - half, 'ready', whole.attempt, p_failure_count,
        whole.lost_count, whole.revision);
    RETURN p_first + half;
END
$$;

CREATE TABLE http_results (
    campaign_no integer NOT NULL,
    run integer NOT NULL,
    position integer NOT NULL,
    -- Number of domainflow.validation.v1.HttpVerdict.
    verdict smallint NOT NULL,
    -- Of the last response; null without one.
    status_code smallint,
    attempt_count smallint NOT NULL,
    duration_us integer NOT NULL,
    check_time_us bigint NOT NULL,
    -- Null without one. No line ends in here: streams join texts with them.
    final_url text CHECK (strpos(final_url, E'\n') = 0),
    title text CHECK (strpos(title, E'\n') = 0),
    language text,
    content_size integer,
    content_sha256 bytea,
    truncated boolean NOT NULL DEFAULT false,
    -- What else is known, as protobuf bytes.
    evidence bytea,
    PRIMARY KEY (campaign_no, run, position)
) PARTITION BY HASH (campaign_no);

CREATE TABLE page_analyses (
    campaign_no integer NOT NULL,
    run integer NOT NULL,
    position integer NOT NULL,
    -- Thousandths, 0 to 1000.
    score smallint NOT NULL,
    -- domainflow.validation.v1.PageWarning: bit n - 1 is warning n.
    warnings integer NOT NULL DEFAULT 0,
    check_time_us bigint NOT NULL,
    -- The keywords found, the most frequent first, and how often each: what keyword_hits has of the page. Null without any.
    keywords text[],
    hit_counts integer[],
    -- The feature vector, as protobuf bytes: scores are made anew from it.
    features bytea,
    PRIMARY KEY (campaign_no, run, position)
) PARTITION BY HASH (campaign_no);

-- page_analyses.keywords turned round: who looks for a keyword looks here, who shows a page there. Written together.
CREATE TABLE keyword_hits (
    campaign_no integer NOT NULL,
    run integer NOT NULL,
    keyword text COLLATE "C" NOT NULL,
    position integer NOT NULL,
    hit_count integer NOT NULL,
    PRIMARY KEY (campaign_no, run, keyword, position)
) PARTITION BY HASH (campaign_no);

CREATE TABLE leads (
    campaign_no integer NOT NULL,
    run integer NOT NULL,
    position integer NOT NULL,
    -- Numbers of domainflow.validation.v1.LeadStatus and LeadReason.
    status smallint NOT NULL,
    reason smallint NOT NULL,
    check_time_us bigint NOT NULL,
    -- domainflow.validation.v1.Lead with the contacts only, as protobuf bytes; null without any.
    contacts bytea,
    PRIMARY KEY (campaign_no, run, position)
) PARTITION BY HASH (campaign_no);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['http_results', 'page_analyses', 'keyword_hits', 'leads'] LOOP
        FOR i IN 0..15 LOOP
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES WITH (MODULUS 16, REMAINDER %s)
                WITH (autovacuum_vacuum_insert_scale_factor = 0.05)', name || '_' || i, name, i);
        END LOOP;
    END LOOP;
END $$;
CREATE INDEX http_results_by_verdict ON http_results (campaign_no, run, verdict, position);
CREATE INDEX page_analyses_by_score ON page_analyses (campaign_no, run, score, position);
CREATE INDEX page_analyses_with_warnings ON page_analyses (campaign_no, run, position) WHERE warnings <> 0;
CREATE INDEX keyword_hits_of_domain ON keyword_hits (campaign_no, run, position);
CREATE INDEX leads_by_status ON leads (campaign_no, run, status, position);
CREATE INDEX leads_by_reason ON leads (campaign_no, run, reason, position);

-- From here on: derived from the tables above, made and removed by `python -m services.query maintain`, correct without.

-- A campaign's positions in order of name, so many a row: 4 bytes a name where an index of names takes 60, and nothing on the way in.
CREATE TABLE name_orders (
    campaign_no integer NOT NULL,
    block integer NOT NULL,
    first_name text COLLATE "C" NOT NULL,
    positions integer[] NOT NULL,
    PRIMARY KEY (campaign_no, block)
);
CREATE INDEX name_orders_by_name ON name_orders (campaign_no, first_name, block);

-- What is made, or being made, for a campaign. Without `finish_time` it is not complete: nobody reads it.
CREATE TABLE derivations (
    campaign_no integer NOT NULL,
    -- 'name_order', 'names', 'enriched'.
    kind text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    -- Runs and revisions of the results it was made of; it is valid while they are the same (services/query/derived.py).
    source_version text NOT NULL,
    name_count bigint NOT NULL,
    finish_time timestamptz,
    PRIMARY KEY (campaign_no, kind, id)
);

-- Batches of streams as they go over the wire, without campaign and cursor.
CREATE TABLE segments (
    derivation_id bigint NOT NULL,
    first_position integer NOT NULL,
    name_count integer NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (derivation_id, first_position)
);
-- Neither compressed nor in pieces of another table's: read whole and sent on.
ALTER TABLE segments ALTER payload SET STORAGE EXTERNAL;

-- The result of the last comparison of counters with rows, by campaign.
CREATE TABLE counter_checks (
    campaign_no integer PRIMARY KEY,
    revision bigint NOT NULL,
    check_time timestamptz NOT NULL DEFAULT now(),
    row_count bigint NOT NULL,
    drift_count integer NOT NULL,
    -- domainflow.query.v1.CheckCountersResponse, as protobuf bytes.
    body bytea NOT NULL
);

-- Figures of every process's pool, replaced every few seconds, and of the query service's queries by minute; 7 days are kept.
CREATE UNLOGGED TABLE pool_reports (
    process text PRIMARY KEY,
    report_time timestamptz NOT NULL DEFAULT now(),
    -- domainflow.query.v1.ConnectionPool, as protobuf bytes.
    body bytea NOT NULL
);
CREATE TABLE pool_history (
    begin_time timestamptz NOT NULL,
    process text NOT NULL,
    in_use_max integer NOT NULL,
    max_count integer NOT NULL,
    acquire_count bigint NOT NULL,
    wait_us bigint NOT NULL,
    longest_wait_us bigint NOT NULL,
    PRIMARY KEY (begin_time, process)
);
CREATE TABLE query_performance (
    begin_time timestamptz NOT NULL,
    process text NOT NULL,
    method text NOT NULL,
    query_count bigint NOT NULL,
    row_count bigint NOT NULL,
    total_us bigint NOT NULL,
    longest_us bigint NOT NULL,
    -- Queries by time: entry i counts those of under 1.1^i * 100 us.
    histogram integer[] NOT NULL,
    PRIMARY KEY (begin_time, process, method)
);
CREATE TABLE slow_queries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    end_time timestamptz NOT NULL DEFAULT now(),
    method text NOT NULL,
    duration_us bigint NOT NULL,
    statement text NOT NULL,
    plan text NOT NULL
);
CREATE INDEX slow_queries_by_time ON slow_queries (end_time);
CREATE INDEX slow_queries_by_duration ON slow_queries (duration_us DESC, id DESC);
