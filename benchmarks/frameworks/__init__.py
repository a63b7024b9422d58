"""What is measured: one file per framework, each imported only in a process of its own.

Every file has IMPLEMENTATIONS, from a name to the modes it has, and

    prepare(case, implementation, mode, quantity) -> call

where `call()` does the work once and returns when it is done, with the result (for "output", to check its shape).
`peak_mb(call)` is by how many megabytes (2**20 bytes) a call raises the memory in use, results included.
`prepare` raises where the implementation cannot do the case.
"""
