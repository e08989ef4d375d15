end
if is("Paused", "True") then
  return { status = "Suspended", message = told(found.Paused, "paused") }
end
local ready = found.Ready
if ready ~= nil and (ready.reason == "ApprovalNeeded" or ready.reason == "WaitingForWindow") then
  return { status = "Suspended", message = told(ready, "a change waits") }
end
if is("Ready", "True") and not is("Reconciling", "True") then
  return { status = "Healthy", message = told(ready, "ready") }
end
return { status = "Progressing", message = told(ready, "not ready yet") }
