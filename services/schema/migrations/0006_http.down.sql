-- Loses what was found on pages: SELECT FROM pages
-- Loses how scores were made: SELECT FROM scorings
-- Loses what is not settled of the later phases (those that run are cancelled): SELECT FROM chunks WHERE last_position IS NOT NULL AND state <> 'done'
-- Loses which run a later phase rests on: SELECT FROM phases WHERE source_run IS NOT NULL
-- Loses HTTP personas: SELECT FROM http_personas
-- Loses keyword sets: SELECT FROM keyword_set_versions
-- Loses scoring profiles: SELECT FROM scoring_profile_versions
-- Loses proxies: SELECT FROM proxies
-- Loses proxy pools: SELECT FROM proxy_pools
-- Loses the suppression list: SELECT FROM suppressions
-- Made again: proxy_reports. With what is named above go keyword_sets, scoring_profiles, proxy_pool_members, chunks.last_position and
-- page_analyses.scoring and with_keyword. What the later phases settled stays, with its chunks and counters: who reads those goes by where the next chunk begins.

-- As in 0005_query.sql.
LOCK TABLE phases IN EXCLUSIVE MODE;
LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE;
SET LOCAL lock_timeout = '500ms';
LOCK TABLE phases IN ACCESS EXCLUSIVE MODE;

DROP TABLE suppressions, proxy_reports, proxy_pool_members, proxies, proxy_pools, scoring_profile_versions, scoring_profiles,
    keyword_set_versions, keyword_sets, http_personas, scorings, pages;
ALTER TABLE page_analyses DROP scoring, DROP with_keyword, ADD features bytea;
-- As 0003_control.sql has it.
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
    END IF;
    RETURN true;
END
$$;
-- As 0005_query.sql has it.
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
DROP FUNCTION candidate_positions(integer, smallint, integer, integer, integer, integer);
DROP TRIGGER refuse_full_chunk ON chunks;
DROP FUNCTION refuse_full_chunk();
DROP TRIGGER forget_source ON phases;
DROP FUNCTION forget_source();
-- The version before takes a chunk for every position from its first one on. A phase of which something is open cannot go on there.
DELETE FROM chunks WHERE last_position IS NOT NULL AND state <> 'done';
UPDATE campaigns k SET current_phase = p.phase, status = 'CANCELLED', version = k.version + 1, update_time = now()
FROM phases p WHERE p.campaign_no = k.no AND p.phase > 2 AND p.status IN ('RUNNING', 'PAUSED');
UPDATE phases SET status = 'CANCELLED', end_time = now() WHERE phase > 2 AND status IN ('RUNNING', 'PAUSED');
ALTER TABLE phases DROP source_run;
ALTER TABLE chunks DROP last_position;
