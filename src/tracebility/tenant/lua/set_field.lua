-- Set or delete one field of a hash. A script, because plain writes are refused when memory is full. O(1).
--
-- KEYS  1 the hash
-- ARGV  1 field, 2 value, '' to delete
if ARGV[2] == '' then
    return redis.call('HDEL', KEYS[1], ARGV[1])
end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
