"""IAM: what a role's policies do not allow is refused, at every call of that role.

moto can enforce policies too, but ignores conditions and denies what is allowed for
some resources only. Here a call is taken apart into what it asks of IAM (`requests`),
and that is held against the role's policies as they are deployed (`policy`,
`authority`). Only roles are judged: tests, Terraform and operators call with other keys
and may do everything.
"""
