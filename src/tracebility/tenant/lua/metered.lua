-- Note when usage last changed, for the reconciler. O(members * log(all members)).
--
-- KEYS  1 what is metered, by when that was
-- ARGV  1 the time in milliseconds, then members
for nth = 2, #ARGV do
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[nth])
end
return 1
