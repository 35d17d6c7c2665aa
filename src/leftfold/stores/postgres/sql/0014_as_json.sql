-- Data as jsonb, for people; null where it is none.
create function as_json(data bytea) returns jsonb language plpgsql immutable strict parallel safe as $$
begin
  return convert_from(data, 'UTF8')::jsonb;
exception when data_exception then
  return null;
end $$;
