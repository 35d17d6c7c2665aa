-- The moment that is so many microseconds after 1970, exactly: a number with a fraction is not.
create function moment(us bigint) returns timestamptz language sql immutable strict parallel safe
return 'epoch'::timestamptz + (us / 1000000) * interval '1 second'
  + (us % 1000000) * interval '1 microsecond';
