"""The tables: numbered SQL migrations, each with its way back (`.down.sql`), applied by
`python -m services.schema`.

One writer per table; `query` reads all of them over read-only connections.

| table | written by |
|---|---|
| campaigns, phases, uploads, upload_names, upload_rejections, requests, domains | campaign |
| patterns, reservations, deletions | campaign |
| chunks | campaign plans them, hands them out and takes them back; workers change them through
claim_chunk, hold_chunk, release_chunk, park_chunk, fail_chunk, split_chunk, settle_chunk and
withdraw_chunks only |
| parked_chunks | park_chunk adds, a trigger on chunks and the campaign service remove |
| events | campaign and workers, through append_event only |
| dns_results, workers, pools, resolver_reports | validation |
| dns_personas | validation; campaign copies their settings |
| validation_requests | validation |
| dead_letters | validation; campaign resolves them |
| whatever a deleted campaign leaves | campaign, once nobody else may write it (deletion.py) |
| ledger_totals, tld_totals, uncounted | the triggers on chunks |
| http_results, pages, page_analyses, scorings, keyword_hits, leads | validation |
| http_personas, keyword_sets, scoring_profiles, their versions | validation; campaign reads them |
| proxies, proxy_pools, proxy_pool_members, proxy_reports, suppressions | validation |
| name_orders, derivations, segments, counter_checks | query's maintainer |
| chunks.tld_counts, where whoever settled a chunk did not count them | query's maintainer |
| pool_reports, pool_history | every process, of its own pool |
| query_performance, slow_queries | query |
| system_events | validation, through append_system_event only |
"""

from services.schema.migrate import migrate

__all__ = ["migrate"]
