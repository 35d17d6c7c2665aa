-- Who holds readers back: the transactions that have appended and have not ended, the oldest first.
-- One that is prepared has no process any more.
create view at_work as
select l.pid, coalesce(a.usename, p.owner) as role, a.application_name, a.client_addr,
  case when p.gid is null then a.state else 'prepared' end as state,
  coalesce(a.xact_start, p.prepared) as since,
  coalesce(a.query, 'PREPARE TRANSACTION ' || quote_literal(p.gid)) as query
from (
  select distinct pid, virtualtransaction from pg_locks
  where locktype = 'advisory' and objsubid = 2 and classid = 'events'::regclass::oid
    and database = (select oid from pg_database where datname = current_database())) as l
left join pg_stat_activity a on a.pid = l.pid
left join pg_locks t on l.pid is null and t.pid is null and t.locktype = 'transactionid'
  and t.virtualtransaction = l.virtualtransaction
left join pg_prepared_xacts p on p.transaction = t.transactionid
order by since;
