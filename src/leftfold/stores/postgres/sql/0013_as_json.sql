-- Data as jsonb, for people; null where it is none, or nested too deeply.
create function as_json(data bytea) returns jsonb language plpgsql immutable strict parallel safe as $$
begin
  return convert_from(data, 'UTF8')::jsonb;
exception when data_exception or program_limit_exceeded then
  return null;
end $$;
