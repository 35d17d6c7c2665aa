-- From now on wait for locks until a moment, and no longer: what waits for several has one limit. It
-- is one expression, which PL/pgSQL evaluates without an executor where it is assigned.
create function wait_until(at timestamptz) returns text language sql volatile as $$
  -- A limit of 0 would be none.
  select set_config('lock_timeout',
    greatest(1, extract(epoch from at - clock_timestamp()) * 1000)::integer::text, true)
$$;
