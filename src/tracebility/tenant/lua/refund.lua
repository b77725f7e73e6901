-- Refund the usage of an attempt that could not be stored, unless a later attempt took over its reservation. O(meters).
--
-- KEYS  1 usage of the org in the period, 2 mark of the body
-- ARGV  1 token of the attempt, 2 slot it was counted in, then meter and quantity of each meter
if redis.call('GET', KEYS[2]) ~= ARGV[1] .. '|' .. ARGV[2] then
    return 0
end
redis.call('DEL', KEYS[2])
-- A settled slot holds ClickHouse's figure, which never included this usage.
if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[1], 'watermark') or 0) then
    for at = 3, #ARGV, 2 do
        redis.call('HINCRBY', KEYS[1], ARGV[at] .. ':' .. ARGV[2], -ARGV[at + 1])
        redis.call('HINCRBY', KEYS[1], ARGV[at], -ARGV[at + 1])
    end
end
return 1
