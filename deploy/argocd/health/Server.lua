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
