-- Set the time of members of a sorted set. A script, because plain writes are refused when memory is full.
-- O(members x log(size of the set)).
--
-- KEYS  1 sorted set: member -> time (ms)
-- ARGV  1 time in milliseconds, then members
for nth = 2, #ARGV do
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[nth])
end
return 1
