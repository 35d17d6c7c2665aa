-- What people and reports read. `data` is null where it is no JSON; `bytes` is what was written.
create view log as
select
  e.position,
  e.stream,
  k.category,
  e.version,
  k.type,
  k.schema_version,
  as_json(e.data) as data,
  coalesce(e.tags, '{}') as tags,
  e.id,
  moment(e.recorded_at) as recorded_at,
  moment(coalesce(e.occurred_at, e.recorded_at)) as occurred_at,
  e.correlation_id,
  e.causation_id,
  e.command_id,
  e.actor,
  e.metadata::json as metadata,
  e.data as bytes
from events e join kinds k on k.id = e.kind_id;
