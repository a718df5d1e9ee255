-- Loses priorities other than NORMAL: SELECT FROM campaigns WHERE priority <> 'NORMAL'
-- Loses rate limits: SELECT FROM campaigns WHERE name_rate_limit <> 0
-- Loses which campaigns are archived: SELECT FROM campaigns WHERE archive_time IS NOT NULL
-- Loses which campaigns are being deleted (they would come back): SELECT FROM campaigns WHERE delete_time IS NOT NULL
-- Loses which names are taken of patterns (they could be given away twice): SELECT FROM reservations
-- Loses how many names a pattern did not have any more: SELECT FROM phases WHERE missing_count <> 0
-- Loses lines of uploads that were no names: SELECT FROM upload_rejections
-- Loses dead letters: SELECT FROM dead_letters
-- Loses the suite's own history: SELECT FROM system_events
-- Loses which part of a history is not kept (watches would miss it without a word): SELECT FROM campaigns WHERE forgotten_revision <> 0
-- Made again: campaigns.version, campaigns.current_phase, campaigns.status, chunks.failure_count, chunks.lost_count, workers.load, pools;
-- patterns and system_revision without the tables above; deletions, once they are over.

DROP TABLE deletions;
DROP FUNCTION append_system_event(bytea);
DROP TABLE system_revision, system_events, pools;
ALTER TABLE workers DROP load;
DROP FUNCTION redrive_dead_letter(integer, smallint, integer, integer, text);
DROP TABLE dead_letters, upload_rejections, reservations, patterns;
DROP FUNCTION split_chunk(integer, smallint, integer, integer, integer, integer);
DROP FUNCTION fail_chunk(integer, smallint, integer, integer, integer, interval);

-- As 0002_ledger.sql has it.
CREATE OR REPLACE FUNCTION claim_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_worker text, p_lease interval
) RETURNS TABLE (attempt integer, name_count integer, configuration bytea)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM phases
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND status = 'RUNNING'
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY
    UPDATE chunks c
    SET state = 'queued', attempt = c.attempt + 1, worker = p_worker, ready_time = NULL,
        claim_time = now(), lease_expire_time = now() + p_lease
    FROM campaigns k
    WHERE c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run AND c.first_position = p_first
      AND c.state <> 'done'
      AND (c.claim_time IS NULL OR c.lease_expire_time <= now())
      AND k.no = c.campaign_no
    RETURNING c.attempt, c.name_count, k.configuration;
END
$$;

-- As 0002_ledger.sql has it.
CREATE OR REPLACE FUNCTION settle_chunk(
    p_campaign integer, p_phase smallint, p_run integer, p_first integer, p_attempt integer,
    p_outcome_counts integer[], p_content_sha256 bytea
) RETURNS TABLE (elapsed interval)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM phases
    WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND status = 'RUNNING'
    FOR SHARE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF (SELECT sum(n) FROM unnest(p_outcome_counts) AS n) IS DISTINCT FROM (
        SELECT name_count FROM chunks
        WHERE campaign_no = p_campaign AND phase = p_phase AND run = p_run AND first_position = p_first
    ) THEN
        RAISE EXCEPTION 'outcomes % are not one for every name of the chunk', p_outcome_counts;
    END IF;
    RETURN QUERY
    UPDATE chunks c
    SET state = 'done', done_time = now(), lease_expire_time = NULL,
        outcome_counts = p_outcome_counts, content_sha256 = p_content_sha256
    WHERE c.campaign_no = p_campaign AND c.phase = p_phase AND c.run = p_run AND c.first_position = p_first
      AND c.state = 'queued' AND c.attempt = p_attempt AND c.claim_time IS NOT NULL
    RETURNING now() - c.claim_time;
END
$$;

DROP FUNCTION share_turn(integer);
DROP FUNCTION take_turn(integer);

DROP INDEX chunks_delayed, campaigns_by_status, campaigns_by_name_count, campaigns_by_update_time, campaigns_by_name,
    campaigns_by_create_time;
ALTER TABLE phases DROP missing_count;
ALTER TABLE chunks DROP failure_count, DROP lost_count;
ALTER TABLE campaigns DROP version, DROP priority, DROP name_rate_limit, DROP archive_time, DROP delete_time,
    DROP current_phase, DROP status, DROP forgotten_revision;
