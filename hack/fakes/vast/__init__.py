"""The stand-in Vast.ai: a server the real `vastai` client accepts, as unkind as the real one.

Start with `app.make_app`. The pure parts (model, market, instances, wire, faults) do no I/O; routes and
control are HTTP; backend and pods are what a rented machine is made of.
"""
