-- Made again: parked_chunks, and with it chunks.park_count, waiting_count and put_off. Chunks that are set aside begin anew: their pages are
-- fetched again.

-- As in 0005_query.sql.
LOCK TABLE phases IN EXCLUSIVE MODE;
LOCK TABLE chunks IN ACCESS EXCLUSIVE MODE;
SET LOCAL lock_timeout = '500ms';
LOCK TABLE phases IN ACCESS EXCLUSIVE MODE;

DROP TRIGGER forget_all_progress ON phases;
DROP FUNCTION forget_all_progress();
DROP TRIGGER forget_progress ON chunks;
DROP FUNCTION forget_progress();
DROP FUNCTION park_chunk(integer, smallint, integer, integer, integer, interval, integer, bytea);
DROP TABLE parked_chunks;
ALTER TABLE chunks DROP park_count, DROP waiting_count, DROP put_off;
