-- Say something under a name, or no more. A script, so that it may be said when memory is full. O(1).
--
-- KEYS  1 the hash
-- ARGV  1 the name, 2 what is said, '' for nothing
if ARGV[2] == '' then
    return redis.call('HDEL', KEYS[1], ARGV[1])
end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
