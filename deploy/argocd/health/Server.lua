-- Health of a Server, from its conditions. Argo CD runs this with `obj`; Lua 5.1, no libraries.
local found = {}
local status = obj.status
if status ~= nil and status.conditions ~= nil then
  for _, condition in ipairs(status.conditions) do
    found[condition.type] = condition
  end
end

local function told(condition, otherwise)
  if condition ~= nil and condition.message ~= nil and condition.message ~= "" then
    return condition.message
  end
  return otherwise
end

local function is(type_, word)
  return found[type_] ~= nil and found[type_].status == word
end

if obj.metadata.deletionTimestamp ~= nil then
  return { status = "Progressing", message = told(found.DeletionBlocked or found.Ready, "it is being deleted") }
end
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not looked at this generation yet" }
end
if is("Stalled", "True") then
  return { status = "Degraded", message = told(found.Stalled, "it needs somebody") }
end
local ready = found.Ready
if ready ~= nil and ready.reason == "Paused" then
  return { status = "Suspended", message = told(ready, "paused") }
end
if is("Ready", "True") and not is("Reconciling", "True") then
  -- Little disk is told and fails no sync: what runs goes on running.
  if is("DiskPressure", "True") then
    return { status = "Healthy", message = "little disk space: " .. told(found.DiskPressure, "") }
  end
  return { status = "Healthy", message = told(ready, "ready") }
end
return { status = "Progressing", message = told(ready, "not ready yet") }
