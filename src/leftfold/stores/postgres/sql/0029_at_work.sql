-- Who holds readers back: the transactions that have appended and have not ended, the oldest first.
create view at_work as
select a.pid, a.usename as role, a.application_name, a.client_addr, a.state,
  a.xact_start as since, a.query
from pg_locks l join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory' and l.objsubid = 2 and l.classid = 'events'::regclass::oid
  and l.database = (select oid from pg_database where datname = current_database())
order by a.xact_start;
