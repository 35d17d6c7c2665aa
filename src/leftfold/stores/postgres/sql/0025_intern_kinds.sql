-- The ids of kinds, made where needed. It runs before `append` and in a transaction of its own, so
-- that nobody waits for the kinds of an append that is still at work.
create function intern_kinds(types text[], categories text[], schema_versions integer[])
returns integer[] language plpgsql security definer
set search_path from current as $$
begin
  insert into kinds (type, category, schema_version)
  select * from unnest(types, categories, schema_versions) as wanted
  except select type, category, schema_version from kinds
  order by 1, 2, 3
  on conflict do nothing;
  return array(
    select kinds.id
    from unnest(types, categories, schema_versions)
      with ordinality as wanted (type, category, schema_version, n)
    join kinds using (type, category, schema_version)
    order by wanted.n);
end $$;
-- For the owner, and for whom the owner lets append.
revoke execute on function intern_kinds from public;
