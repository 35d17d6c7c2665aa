-- From now on wait for locks until a moment, and no longer: what waits for several has one limit.
create function wait_until(at timestamptz) returns void language plpgsql as $$
begin
  -- A limit of 0 would be none.
  perform set_config('lock_timeout',
    greatest(1, extract(epoch from at - clock_timestamp()) * 1000)::integer::text, true);
end $$;
