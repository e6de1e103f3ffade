"""The client's side: asks any server of the Open Inference Protocol, never the server's own code.

Of ``service`` only the stubs (``service.pb``) and the client (``service.client``) may be imported here.
"""
