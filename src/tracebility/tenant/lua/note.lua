-- Note names with a time, such as whose usage changed. A script, so that it may be done when memory is full.
-- O(members * log(all members)).
--
-- KEYS  1 the names by when that was
-- ARGV  1 the time in milliseconds, then members
for nth = 2, #ARGV do
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[nth])
end
return 1
