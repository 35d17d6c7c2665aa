-- The position of the last event that is settled. An event, and not just a number handed out: after
-- a crash, numbers that no commit has used are handed out again. It is looked for in a later
-- statement than the gate, which sees all that the gate has let pass.
create function head() returns bigint language plpgsql volatile
set search_path from current as $$
declare
  up_to constant bigint := (select settled from gate());
begin
  return coalesce((select max(position) from events where position <= up_to), 0);
end $$;
