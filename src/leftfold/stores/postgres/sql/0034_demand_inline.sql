-- Demand of every append that it keeps these builds of inline projections, and no others.
create function demand_inline(names text[], builds bigint[]) returns void language plpgsql
security definer set search_path from current as $$
begin
  perform hold_appends();
  delete from inline_builds;
  insert into inline_builds select * from unnest(names, builds);
end $$;
-- For the owner, and for whom the owner lets keep inline projections.
revoke execute on function demand_inline from public;
