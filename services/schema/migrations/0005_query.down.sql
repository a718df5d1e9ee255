-- Loses verdicts of pages: SELECT FROM http_results
-- Loses scores of pages: SELECT FROM page_analyses
-- Loses keywords found: SELECT FROM keyword_hits
-- Loses leads: SELECT FROM leads
-- Made again: ledger_totals, uncounted (empty between transactions), phases.shown_revision, chunks.revision (by the time of settlement); tld_totals and chunks.tld_counts,
-- name_orders, derivations, segments, counter_checks by `python -m services.query maintain`; pool_reports by those that run. Figures
-- of the past are not worth a refusal: pool_history, query_performance, slow_queries.

-- As in 0005_query.sql.
LOCK TABLE phases IN EXCLUSIVE MODE;
LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE;
SET LOCAL lock_timeout = '500ms';
LOCK TABLE phases IN ACCESS EXCLUSIVE MODE;

DROP TABLE slow_queries, query_performance, pool_history, pool_reports, counter_checks, segments, derivations, name_orders;
DROP TABLE leads, keyword_hits, page_analyses, http_results;

DROP TRIGGER forget_tlds ON chunks;
DROP TRIGGER announce_changed_chunk ON chunks;
DROP TRIGGER announce_new_chunk ON chunks;
DROP TRIGGER count_changed_chunk ON chunks;
DROP TRIGGER count_new_chunk ON chunks;
DROP TRIGGER note_shown_run ON phases;
-- As 0003_control.sql has it.
CREATE OR REPLACE FUNCTION settle_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer,
    p_outcome_counts integer[], p_content_sha256 bytea
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
        outcome_counts = p_outcome_counts, content_sha256 = p_content_sha256
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
-- As 0003_control.sql has it.
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
    INSERT INTO chunks (campaign_no, phase, run, first_position, name_count, state, attempt, failure_count, lost_count)
    VALUES (p_campaign, p_phase, p_run, p_first + half, whole.name_count - half, 'ready', whole.attempt, p_failure_count,
        whole.lost_count);
    RETURN p_first + half;
END
$$;

DROP FUNCTION settle_chunk(integer, smallint, integer, integer, integer, integer[], bytea, jsonb);
DROP FUNCTION forget_tlds();
DROP FUNCTION note_shown_run();
DROP FUNCTION count_chunk();
DROP FUNCTION announce_chunk();
DROP FUNCTION count_uncounted();
DROP FUNCTION count_outcomes(integer, smallint, integer, bigint[], bigint);
DROP FUNCTION count_tlds(integer, smallint, integer, jsonb, integer);
DROP FUNCTION outcome_array(jsonb);
DROP FUNCTION negated(bigint[]);
DROP FUNCTION added(bigint[], bigint[]);
DROP TABLE tld_totals, ledger_totals, uncounted;
DROP INDEX chunks_without_tlds, chunks_by_revision;
ALTER TABLE phases DROP shown_revision;
ALTER TABLE chunks DROP revision, DROP tld_counts;
