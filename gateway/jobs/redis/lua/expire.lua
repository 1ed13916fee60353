-- ARGV: at, retention, at most so many records or items. One bounded piece of clearing up; gives 1 if there is more to do.
local at, now, retention, most = ARGV[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local STALE_UPLOAD, STALE_CONSUMER = 86400, 3600000
local left = most

local function lines_without_worker(batch)
  local found = call('ZRANGE', P .. 'r:' .. batch, 0, left - 1)
  for _, member in ipairs(call('ZRANGE', P .. 'd:' .. batch, 0, left - 1)) do found[#found + 1] = member end
  return found
end

local function key_of(batch, member) return batch .. ':' .. tonumber(string.match(member, ' (%d+)$')) end

-- Batches and jobs whose deadline has come. What a worker holds ends when it lets go.
local function out_of_time()
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'ends', '-inf', at, 'LIMIT', 0, most)) do
    call('ZREM', P .. 'ends', id)
    left = left - 1
    if string.sub(id, 1, 4) == 'job_' then
      if not call('HGET', P .. 'i:' .. id, 'sid') then give_up(id, 'expired', at) end
    else
      local status, queue, member = unpack(call('HMGET', P .. 'b:' .. id, 'status', 'queue', 'member'))
      if status == 'validating' then
        close_batch(id, 'expired', at)
        call('SADD', P .. 'litter', id)
      elseif status == 'in_progress' then
        set_status(id, 'finalizing')
        call('HSET', P .. 'b:' .. id, 'finalizing_at', at)
        call('ZREM', P .. 'q:' .. queue, member)
        call('SADD', P .. 'closing', id)
      end
    end
  end
end

local function end_unwanted()
  for _, batch in ipairs(call('SMEMBERS', P .. 'closing')) do
    for _, member in ipairs(lines_without_worker(batch)) do
      local key = key_of(batch, member)
      give_up(key, over(key, at) or 'expired', at)  -- who closed it had a clock that is ahead of this one
      left = left - 1
    end
    if left <= 0 then return end
  end
end

local function sweep_litter()
  local batch = call('SRANDMEMBER', P .. 'litter')
  if not batch then return end
  for _, member in ipairs(lines_without_worker(batch)) do
    call('ZREM', P .. 'r:' .. batch, member)
    call('DEL', P .. 'i:' .. key_of(batch, member))
    left = left - 1
  end
  if left > 0 then call('SREM', P .. 'litter', batch) end
end

local function old_files()
  for _, of in ipairs({ { 'file_ends', at }, { 'files_made', exact(now - retention) }, { 'writing', exact(now - STALE_UPLOAD) } }) do
    for _, file in ipairs(call('ZRANGEBYSCORE', P .. of[1], '-inf', of[2], 'LIMIT', 0, math.max(left, 0))) do
      call('ZREM', P .. of[1], file)
      hide(file)
      left = left - 1
    end
  end
end

-- Content of deleted files that no batch needs any more, some chunks at a time.
local function drop_content()
  for _, file in ipairs(call('SMEMBERS', P .. 'garbage')) do
    local f = P .. 'f:' .. file
    local uses, bytes = unpack(call('HMGET', f, 'uses', 'bytes'))
    if number(uses) <= 0 then
      local chunks = math.ceil(number(bytes) / CHUNK)
      while chunks > 0 and left > 0 do
        chunks, left = chunks - 1, left - 1
        call('UNLINK', P .. 'c:' .. file .. ':' .. string.format('%d', chunks))
      end
      call('HSET', f, 'bytes', string.format('%d', chunks * CHUNK))
      if chunks == 0 then
        call('DEL', f)
        call('SREM', P .. 'garbage', file)
      end
    end
    if left <= 0 then return end
  end
end

local function old_records()
  local before = exact(now - retention)
  for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'ended', '-inf', before, 'LIMIT', 0, math.max(left, 0))) do
    local kind = string.sub(id, 1, 1)
    local record = P .. kind .. ':' .. id
    local once, tenant, status = unpack(call('HMGET', record, 'once', 'tenant', 'status'))
    if once then call('DEL', P .. 'once:' .. kind .. ':' .. once) end
    if kind == 'b' then
      call('ZREM', P .. 'batches:' .. tenant, id)
      call('HINCRBY', P .. 'statuses', status, -1)
    end
    call('ZREM', P .. 'calls', id)
    call('ZREM', P .. 'ended', id)
    call('UNLINK', record)
    left = left - 1
  end
end

-- Names of processes that are gone: each life of a gateway is a consumer of its own.
local function old_consumers()
  if call('EXISTS', LEASES[1]) == 0 then return end
  for _, of in ipairs(call('XINFO', 'CONSUMERS', unpack(LEASES))) do
    if of[4] == 0 and of[6] > STALE_CONSUMER then call('XGROUP', 'DELCONSUMER', LEASES[1], LEASES[2], of[2]) end
  end
end

local pieces = { out_of_time, end_unwanted, sweep_litter, old_files, drop_content, old_records, old_consumers }
for _, piece in ipairs(pieces) do
  if left > 0 then piece() end
end
return left <= 0 and 1 or 0
