-- Give back what an attempt reserved and could not keep, unless a later attempt has taken it over. O(meters).
--
-- KEYS  1 usage of the org in the period, 2 the mark of the body
-- ARGV  1 the token of the attempt, 2 the slot it was counted in, then meter and quantity of each meter
if redis.call('GET', KEYS[2]) ~= ARGV[1] .. '|' .. ARGV[2] then
    return 0
end
redis.call('DEL', KEYS[2])
-- What is settled up to that slot is what the data plane has, and it never had this.
if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[1], 'watermark') or 0) then
    for at = 3, #ARGV, 2 do
        redis.call('HINCRBY', KEYS[1], ARGV[at] .. ':' .. ARGV[2], -ARGV[at + 1])
        redis.call('HINCRBY', KEYS[1], ARGV[at], -ARGV[at + 1])
    end
end
return 1
